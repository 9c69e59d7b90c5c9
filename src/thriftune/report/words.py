"""What the report says in plain words: the summary at its top and the cautions at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thriftune.report.evidence import Evidence
from thriftune.report.figures import RANDOM_SEEDS, Coverage, spearman
from thriftune.report.findings import compared, metric_words, ordered_metrics
from thriftune.report.material import Material
from thriftune.report.reasons import SCORE_WORDS, percent

_DRIFT = 0.3  # rank correlation from which a score counts as one that drifts with length


def repeated_share(groups: Any) -> float:
    """Share of rows whose label some earlier row has already."""
    return 1 - len(np.unique(groups)) / len(groups) if len(groups) else 0.0


def length_correlations(material: Material) -> dict[str, float | None]:
    """Spearman correlation of every score with prompt length over the pool."""
    lengths = material.lengths.astype(np.float64)
    return {name: spearman(column, lengths) for name, column in material.scores.items()}


def model_name(material: Material) -> str:
    """What was scored with, as its record tells it; empty where it does not."""
    record = material.run_record
    config = record.get("config")
    for place in (record, config if isinstance(config, Mapping) else {}):
        model = place.get("model")
        if isinstance(model, Mapping):
            model = model.get("spec") or model.get("id") or model.get("name")
        if model:
            # A local path says more about this machine than about the model; the records below hold it in full.
            return str(model).rstrip("/").rpartition("/")[2] if str(model).startswith(("/", ".", "~")) else str(model)
    return ""


def summary(material: Material, coverage: Coverage | None, evidence: Evidence) -> list[str]:
    """The paragraph at the top of the page, a sentence each."""
    answered = int(material.annotated.sum())
    kinds = "" if material.tasks is None else f" of {_count(len(set(material.tasks) - {''}), 'task')}"
    sentences = [
        f"The pool holds {_count(len(material), 'prompt')}{kinds}; "
        + (f"{answered:,} of them {_be(answered)} answered already." if answered else "none is answered yet.")
    ]
    if material.run is None:
        sentences.append("No model has read them yet, so there is no map, no scores and no draft answers here.")
    else:
        by = model_name(material) or "A language model"
        drafted = " and drafted an answer" if "mean_nll" in material.scores else ""
        sentences.append(f"{by} read each of them once{drafted}; its doubts are the scores below.")
    if material.chosen:
        sentences.append(_compared(material, coverage))
        if not evidence.analysed:
            sentences.append(
                "Nothing on this page shows which selection trains the better model: "
                "that takes annotating it, fine-tuning and evaluating."
            )
    elif material.run is not None:
        sentences.append("Nothing is selected yet: the page shows what there is to choose from.")
    return [*_measured(evidence), *sentences]


def _measured(evidence: Evidence) -> list[str]:
    """What the latest experiment says, in one sentence."""
    if not evidence.analysed:
        return []
    experiment, analysis = evidence.analysed[0]
    metric = ordered_metrics(experiment, analysis)[0]
    others = compared(metric, analysis)
    saving = [c.strategy for c in others if c.shown]
    if saving:
        found = f"{_listed(saving)} {'was' if len(saving) == 1 else 'were'} shown to need fewer annotations"
    elif len(others) == 1:
        found = f"{others[0].strategy} was not shown to need fewer annotations"
    else:
        found = f"none of {len(others)} strategies was shown to need fewer annotations"
    found += f" than {analysis.baseline} for the same {metric_words(metric.metric)[0]}."
    return [f"In experiment {experiment.name}, {found}"]


def _compared(material: Material, coverage: Coverage | None) -> str:
    count = _count(len(material.chosen), "selection")
    if coverage is None:
        return f"{count} {_be(len(material.chosen))} shown."
    against = {c.name: coverage.against_random(c.name) for c in material.chosen}
    apart = {name: v["change"] for name, v in against.items() if v and not v["within_random"]}
    better = [(change, name) for name, change in apart.items() if change < 0]
    worse = [name for name, change in apart.items() if change > 0]
    text = f"{count} {_be(len(material.chosen))} shown. "
    if better:
        change, best = min(better)
        text += (
            f"{best} covers the pool best for its size: with it, a prompt of the pool lies on average "
            f"{percent(-change)} closer to its nearest pick than with as many random picks."
        )
    else:
        text += "None covers the pool better than as many random picks do."
    if worse:
        many = len(worse) > 1
        text += (
            f" {_listed(worse)} {'cover' if many else 'covers'} it worse than random picks, as strategies that seek "
            f"out hard or far-off prompts often do; that alone is no verdict on {'them' if many else 'it'}."
        )
    return text


def cautions(material: Material, correlations: Mapping[str, float | None]) -> list[dict[str, str]]:
    """What cannot be concluded from the page, and what in this study calls for care: ``title`` and ``text`` each."""
    found: list[dict[str, str]] = []
    if material.embeddings is not None:
        found.append(
            _caution(
                "Coverage is not accuracy",
                "A selection that covers the pool well need not train a better model. Distances are between the "
                "model's own hidden states; `k_center` and `facility_location` are built to make them small, so they "
                "look good by them. At large scale many methods fail to beat random choice: keep a random selection "
                "as control.",
            )
        )
    if material.scores:
        found.append(
            _caution(
                "Uncertainty is not usefulness",
                "A model is also uncertain about prompts that are garbled, ambiguous or have many good answers. Read "
                "the top picks before paying for their answers.",
            )
        )
    if material.embeddings is not None:
        found.append(
            _caution(
                "The map is a shadow",
                "Two dimensions cannot hold the distances between prompts: close on the map may be far apart, and the "
                "other way round.",
            )
        )
    repeats = repeated_share(material.near_groups)
    exact = repeated_share(material.groups)
    text = f"{percent(repeats, 1)} of the pool nearly repeats another prompt ({percent(exact, 1)} exactly)."
    if repeats >= 0.1:
        text += " Where near-duplicates dominate, uncertainty sampling tends to be no better than random."
    found.append(_caution("Near-duplicates", text, repeats >= 0.1))
    drifting = {name: rho for name, rho in correlations.items() if rho is not None and abs(rho) >= _DRIFT}
    if material.scores:
        if drifting:
            text = "; ".join(f"{SCORE_WORDS[n][0]} {rho:+.2f}" for n, rho in drifting.items())
            text = (
                f"Rank correlation with prompt length: {text}. What these scores pick differs from random in length "
                f"too: compare with `length_matched_random` before crediting the score."
            )
        else:
            text = f"No score has a rank correlation with prompt length of {_DRIFT} or more."
        found.append(_caution("Scores and length", text, bool(drifting)))
    if material.truncated is not None and len(material):
        cut = float(material.truncated.mean())
        text = f"{percent(cut, 1)} of the prompts were cut to fit the model's context; their scores see only a part."
        found.append(_caution("Truncated prompts", text if cut else "No prompt had to be cut.", cut >= 0.01))
    if material.hit_limit is not None and len(material):
        limit = float(material.hit_limit.mean())
        text = (
            f"{percent(limit, 1)} of the drafts were stopped at the limit of new tokens: their scores describe the "
            f"beginning of an answer. A larger `--max-new-tokens` sees more of it."
        )
        found.append(_caution("Unfinished drafts", text if limit else "Every draft ended by itself.", limit >= 0.5))
    later = {c.name: int(material.annotated[c.rows].sum()) for c in material.chosen}
    if any(later.values()):
        text = ", ".join(f"{count:,} picks of {name}" for name, count in later.items() if count)
        found.append(
            _caution(
                "Answered since",
                f"{text} have answers by now. They count as picks here, not as covered beforehand; to see a later "
                f"round on top of an earlier one, show only the later: `--selections NAME`.",
            )
        )
    return found


def coverage_words(material: Material, coverage: Coverage) -> list[str]:
    """Exactly what the coverage figure measures."""
    n = len(material)
    measured = (
        f"all {_count(n, 'prompt')} of the pool"
        if coverage.measured == n
        else f"{coverage.measured:,} prompts drawn from the {n:,} of the pool (always the same ones)"
    )
    text = [
        f"How far a prompt of the pool is from the nearest picked one: the Euclidean distance between embeddings "
        f"(centred, scaled to length one), averaged over {measured}. Lower is better; 0 means every prompt, or its "
        f"double, is picked. Each selection is followed in its own pick order.",
        f"Random is the mean of {len(RANDOM_SEEDS)} random orders of the {coverage.eligible:,} distinct prompts that "
        f"are not answered; the band spans the lowest and highest of them.",
    ]
    if coverage.already:
        text.append(
            f"{_count(coverage.already, 'answered prompt')} outside the selections shown "
            f"{_be(coverage.already)} counted as covered from the start, for every line."
        )
    return text


def _caution(title: str, text: str, marked: bool = False) -> dict[str, str]:
    return {"title": title, "text": text, "level": "look" if marked else ""}


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _be(n: int) -> str:
    return "is" if n == 1 else "are"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
