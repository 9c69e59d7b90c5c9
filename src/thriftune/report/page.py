"""The report: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from thriftune import __version__, geometry
from thriftune.artifacts import atomic_path, read_record
from thriftune.errors import ConfigError, StudyError
from thriftune.outputs import check_output
from thriftune.report import words
from thriftune.report.cards import CHOICES, LEVELS, cards
from thriftune.report.evidence import Evidence, load_evidence
from thriftune.report.figures import Coverage, coverage, task_shares
from thriftune.report.findings import BASELINE, experiment_view, palettes
from thriftune.report.material import Chosen, Material, load
from thriftune.report.payload import LISTED_TASKS, payload
from thriftune.report.reasons import SCORE_WORDS, certificate, percent
from thriftune.report.series import experiment_series, loss_series
from thriftune.report.trained import evaluation_table, judged_words, model_view
from thriftune.study import Study

_HERE = Path(__file__).parent
_SCRIPTS = ("core.js", "experiments.js", "plots.js", "points.js")
# Values that are not worth a line in the table.
_USUAL = {"duplicates": "last", "transform": geometry.HIDDEN_STATES, "kernel": "rbf", "start": "mean"}
_CODE = re.compile(r"`([^`]+)`|(?<![\w-])(--[a-z][a-z-]*)")
_RECORD_CHARS = 20_000
_HEAD_BYTES = 4096  # the generator's name stands within the first 1,000


def write_report(
    study: Study | str | Path,
    *,
    run: str | None = None,
    selections: Sequence[str] | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write the report of a study.

    Args:
        study: the study or its directory.
        run: a finished score run; None for the latest, if there is one.
        selections: names of the selections to show; None for all.
        out: the file to write; None for report.html in the study. One that exists must be a report, or empty.

    Returns:
        The file written.

    Raises:
        StudyError: something asked for is not there, artifacts do not fit together, or ``out`` is a study's own file.
        ConfigError: ``out`` is a directory or another file than a report.
    """
    study = study if isinstance(study, Study) else Study(study)
    target = study.path / "report.html" if out is None else Path(out)
    if target.is_dir():
        raise ConfigError(f"--out {target} is a directory: name the file to write, e.g. {target / 'report.html'}")
    check_output(target)
    if target.is_file() and not _replaceable(target):
        raise ConfigError(f"{target} is there and no report of thriftune: name another file to write with --out")
    html = render(load(study, run, selections), load_evidence(study))
    with atomic_path(target) as temporary:
        temporary.write_text(html, encoding="utf-8", newline="\n")
    return target


def _replaceable(file: Path) -> bool:
    """Whether a file is empty or a report, which every version has marked as made by thriftune."""
    with file.open("rb") as handle:
        head = handle.read(_HEAD_BYTES)
    return not head or b'<meta name="generator" content="thriftune ' in head


def render(material: Material, evidence: Evidence) -> str:
    """The page as HTML."""
    x = material.embeddings
    covered = None
    if x is not None:
        covered = coverage(x, material.picks, material.covered, material.groups)
    correlations = words.length_correlations(material)
    shares = [] if material.tasks is None else task_shares(material.tasks, material.picks)
    colours = palettes(evidence, [c.strategy for c in material.chosen])
    data = payload(material, covered, correlations, shares) | {
        "experiments": experiment_series(evidence, colours),
        "losses": loss_series(evidence.models),
    }
    rows = _table(material, covered, shares)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["coded"] = _coded
    environment.filters["breakable"] = _breakable
    environment.filters["colour"] = _colour
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    scripts = [(_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return environment.get_template("page.html").render(
        policy=_policy(style, scripts),
        style=Markup(style),
        scripts=[Markup(s) for s in scripts],
        data=Markup(_json(data)),
        study=material.study.path.resolve().name,
        model=words.model_name(material),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        m=material,
        answered=int(material.annotated.sum()),
        summary=words.summary(material, covered, evidence),
        evidence=evidence,
        experiments=[experiment_view(evidence, e, colours.get(e.name, {})) for e in evidence.experiments],
        models=[model_view(model) for model in evidence.models],
        evaluations=evaluation_table(evidence.evaluations),
        judged=[judged_words(result) for result in evidence.judged],
        rows=rows,
        clusters=any(row["clusters"] for row in rows),
        coverage=covered,
        coverage_words=[] if covered is None else words.coverage_words(material, covered),
        score_words={name: SCORE_WORDS[name] for name in material.scores},
        correlations=correlations,
        shares=shares[:LISTED_TASKS],
        more_tasks=max(0, len(shares) - LISTED_TASKS),
        cards=cards(material),
        choices=CHOICES,
        levels=LEVELS,
        cautions=words.cautions(material, correlations),
        records=_records(material, evidence),
        map=data["points"]["x"] is not None,
        variance=data["points"]["variance"],
        shown=data["shown"],
        thinned=any(s["drawn"] < s["picked"] for s in data["selections"]),
        median_length=float(np.median(material.lengths)) if len(material) else 0.0,
    )


def _coded(text: str) -> Markup:
    """A sentence as HTML in which options, and what stands between backticks, are code."""
    return Markup(_CODE.sub(lambda m: f"<code>{m[1] or m[2]}</code>", str(escape(text))))


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break after an underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _colour(index: int) -> str:
    """The class that gives an element the colour of a strategy."""
    return "kr" if index == BASELINE else f"k{index % 6 + 1}"


def _policy(style: str, scripts: Sequence[str]) -> str:
    """A content security policy under which nothing but our own script and style can run, and nothing can be loaded."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = " ".join(map(source, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {source(style)}; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """JSON that can stand inside a script element whatever text it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _table(material: Material, covered: Coverage | None, shares: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a selection for the table of selections."""
    rows = []
    for c in material.chosen:
        lengths = material.lengths[c.rows]
        rows.append(
            {
                "name": c.name,
                "strategy": c.strategy,
                "params": ", ".join(f"{k}={_brief(v)}" for k, v in c.params.items() if v != _USUAL.get(k, "auto")),
                "picked": len(c.rows),
                "partial": bool(c.record.get("partial")),
                "budget": c.record.get("budget", len(c.rows)),
                "share": len(c.rows) / max(len(material), 1),
                "against": None if covered is None else covered.against_random(c.name),
                "tasks": sum(1 for s in shares if s["picks"][c.name]["count"]),
                "of_tasks": len(shares),
                "clusters": (c.record.get("summary") or {}).get("clusters"),
                "exact": len(c.rows) - len(np.unique(material.groups[c.rows])),
                "near": len(c.rows) - len(np.unique(material.near_groups[c.rows])),
                "length": float(np.median(lengths)) if len(lengths) else 0.0,
                "certificate": certificate(c),
                "warnings": _warnings(material, c),
            }
        )
    return rows


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _warnings(material: Material, chosen: Chosen) -> list[str]:
    stored = chosen.record.get("warnings")
    found = [str(w) for w in stored] if isinstance(stored, list) else []
    run = chosen.record.get("run")
    if run is not None and run != material.run:
        found.append(f"Made from score run {run!r}; the scores and distances on this page are of {material.run!r}.")
    if chosen.record.get("partial"):
        found.append("Interrupted before its budget was reached.")
    return found


def _records(material: Material, evidence: Evidence) -> list[dict[str, str]]:
    """What made the study, the run, the selections and what was measured, as their artifacts record it."""
    found: list[tuple[str, Mapping[str, Any]]] = [("study", material.study.record)]
    # A pool written by other software carries no record; that is no reason to withhold the page.
    with contextlib.suppress(StudyError):
        found.append(("pool", read_record(material.study.pool_file)))
    if material.run is not None:
        found.append((f"score run {material.run}", material.run_record))
    found += [(f"selection {c.name}", c.record) for c in material.chosen]
    found += [(f"experiment {e.name}", {k: v for k, v in e.plan.items() if k != "cells"}) for e in evidence.experiments]
    found += [(f"model {m.name}", m.manifest) for m in evidence.models]
    found += [(f"evaluation {e.name}", e.record) for e in evidence.evaluations]
    records = []
    for title, record in found:
        text = json.dumps(record, indent=2, ensure_ascii=False)
        cut = len(text) - _RECORD_CHARS
        records.append(
            {"title": title, "text": text if cut <= 0 else f"{text[:_RECORD_CHARS]}\n… {cut:,} more characters"}
        )
    return records
