"""A stored selection and the strategies, printed for a person."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thriftune.selection.measured import conditions, measured
from thriftune.selection.registry import Strategy
from thriftune.selection.store import Chosen
from thriftune.study import Study

_TASKS_SHOWN = 10


def show_choice(chosen: Chosen, study: Study, console: Console) -> None:
    """Print what was chosen, how it covers the pool, what to look at, and the next command."""
    selection, summary = chosen.selection, chosen.summary
    k, n = summary["picks"], summary["pool"]
    why = selection.notes.get("default")
    if why:
        console.print(Text(f"No --strategy was given: {selection.strategy} is taken, since {why}."))
    settings = ", ".join(
        [f"score run {chosen.run}"] * (chosen.run is not None)
        + [f"seed {selection.seed}"]
        + [
            f"{key} {value}"
            for key, value in selection.params.items()
            if not isinstance(value, list) and key != "budget_cost"
        ]
    )
    money = selection.params.get("budget_cost")
    spent = "" if money is None else f" for {_sum(selection.notes['cost'])} of {_sum(money)}"
    console.print(
        Text(f"{selection.strategy} chose {k:,} of {n:,} prompts{spent} in {chosen.seconds:.1f} s ({settings})")
    )
    if selection.partial:
        after = f"{k:,} of {selection.budget:,} picks" if money is None else f"{k:,} picks"
        if k == selection.budget and money is None:
            after = "all were picked and before the choice was refined"
        console.print(Text(f"Stopped after {after}; what was picked is kept, marked partial."), style="bold")
    for table in (_tasks(summary), _coverage(summary)):
        if table is not None:
            console.print(table)
    for line in _certificate(selection.certificate, k):
        console.print(Text(line))
    for sentence in chosen.warnings:
        console.print(Text.assemble(("Look at this: ", "bold yellow"), sentence))
    console.print(Text(f"Wrote {chosen.file}"), soft_wrap=True)
    name = shlex.quote(chosen.name)
    console.print(Text(f"Next: thriftune export {study.quoted} --selection {name} --to csv {name}.csv"), soft_wrap=True)


def _sum(money: float) -> str:
    """An amount in its own unit, as short as it can be."""
    return f"{money:,.2f}".rstrip("0").rstrip(".")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="ellipsis", no_wrap=True)
    return table


def _tasks(summary: Mapping[str, Any]) -> Table | None:
    tasks = summary["tasks"]
    if tasks is None:
        return None
    table = _table(f"tasks: {tasks['touched']} of {tasks['tasks']} picked from", "pool", "", "picks", "")
    shown = tasks["table"][:_TASKS_SHOWN]
    rest = summary["pool"] - sum(t["pool"] for t in shown), summary["picks"] - sum(t["picks"] for t in shown)
    rows = [(t["task"] or "(none)", t["pool"], t["picks"]) for t in shown]
    if tasks["tasks"] > len(shown):
        rows.append((f"... {tasks['tasks'] - len(shown)} more", *rest))
    for task, pool, picks in rows:
        shares = f"{pool / summary['pool']:.1%}", f"{picks / summary['picks']:.1%}"
        table.add_row(Text(task), f"{pool:,}", shares[0], f"{picks:,}", shares[1])
    return table


def _coverage(summary: Mapping[str, Any]) -> Table:
    lengths, repeats = summary["lengths"], summary["repeats"]
    table = _table("", "pool", "picks")
    for i, name in enumerate(("shortest tenth up to", "median", "longest tenth from", "longest")):
        table.add_row(f"{lengths['unit']}: {name}", f"{lengths['pool'][i]:,.0f}", f"{lengths['picks'][i]:,.0f}")
    if summary["cut"] is not None:
        for what, name in (("prompt", "prompt beyond the context"), ("draft", "draft answer cut off")):
            shares = summary["cut"][what]
            table.add_row(name, f"{shares['pool']:.1%}", f"{shares['picks']:.1%}")
    clusters = summary["clusters"]
    if clusters is not None:
        table.add_row(
            "clusters touched",
            f"{clusters['clusters']}",
            f"{clusters['touched']} (random: {clusters['random']:.0f})",
        )
        if "effective" in clusters:  # not in selections of earlier versions
            varied = f"{clusters['effective']:.0f} (random: {clusters['effective_random']:.0f})"
            table.add_row("effective number of clusters", "", varied)
    table.add_row("repeat an earlier pick: exactly, nearly", "", f"{repeats['exact']:,}, {repeats['near']:,}")
    related = summary["score_length"]
    if related is not None and related["spearman"] is not None:
        table.add_row(f"Spearman of {related['score']} with length", f"{related['spearman']:+.2f}", "")
    return table


def _certificate(certificate: Mapping[str, Any] | None, picks: int) -> list[str]:
    """A certificate in words; one of a kind that is not ours is printed as it is."""
    if certificate is None:
        return []
    kind = str(certificate.get("kind"))
    whole, kept = ("the pool", "") if not kind.startswith("filtered_") else ("what was kept", " of those kept")
    if kind.endswith("facility_location"):
        best = f"the best {picks:,}{kept}"
        if "budget_cost" in certificate:
            best = f"the best picks that {_sum(certificate['budget_cost'])} buys"
        return [
            f"Proven: these picks add {certificate['ratio']:.1%} or more of what {best} could add to "
            f"how well {whole} is represented ({certificate['value']:,.1f} of at most {certificate['upper_bound']:,.1f}"
            + (", as far as the graph of neighbours holds everyone's nearest)." if certificate["on_graph"] else ")."),
            *_above_random(certificate),
        ]
    if kind.endswith("k_center"):
        return [
            f"Proven: every prompt{kept} lies within {certificate['radius']:.3g} of a pick or an annotated prompt; no "
            f"other {picks:,} picks{kept} can bring that below {certificate['lower_bound']:.3g}."
        ]
    return [f"Certificate: {', '.join(f'{key} {value}' for key, value in certificate.items())}"]


def _above_random(certificate: Mapping[str, Any]) -> list[str]:
    if "above_random" not in certificate:
        return []
    return [
        f"As many random picks would add about {certificate['random']:,.1f}: of the way from there to the best, these "
        f"go {certificate['above_random']:.0%} or more."
    ]


def show_strategies(strategies: Mapping[str, Strategy], console: Console) -> None:
    """Print the strategies: a name, below it what it does, needs and comes from."""
    for strategy in strategies.values():
        what = strategy.summary.partition(". ")[0].rstrip(".").replace("``", "")
        console.print(Text(strategy.name, style="bold"), soft_wrap=True)
        for text in (f"{what}.", f"needs: {needs_in_words(strategy)}", f"source: {strategy.source}"):
            # Not by the console, which cuts long words in two.
            lines = textwrap.wrap(text, max(console.width - 2, 20), break_long_words=False, break_on_hyphens=False)
            console.print(Text(textwrap.indent("\n".join(lines), "  ")), soft_wrap=True)
    console.print("\nWhen to use one, and its parameters: thriftune strategies NAME")


def show_strategy(strategy: Strategy, console: Console) -> None:
    """Print everything about one strategy."""
    console.print(Text(strategy.name, style="bold"))
    for paragraph in strategy.description.split("\n\n"):
        console.print(Text(" ".join(paragraph.replace("``", "").split())))
    console.print()
    for line in facts(strategy):
        console.print(Text(line.replace("`", "")))
    for line in parameter_lines(strategy):
        console.print(Text(f"  --param {line}"))
    if strategy.built_in and measured(strategy.name):
        console.print(Text(f"\nMeasured: {conditions()}."))


def needs_in_words(strategy: Strategy) -> str:
    """What a strategy needs, e.g. ``"embeddings"``, ``"score mean_nll"`` or ``"nothing"``."""
    words = [_score(need.partition(":")[2]) if ":" in need else need for need in strategy.needs]
    return ", ".join(words) or "nothing"


def _score(named: str) -> str:
    return f"a score (--param {named[1:-1]}=NAME)" if named.startswith("{") else f"score {named}"


def facts(strategy: Strategy) -> list[str]:
    """Needs, prefix property, randomness, source and measured time, a line each."""
    lines = [f"needs: {needs_in_words(strategy)}"]
    if strategy.uses:
        lines.append(f"uses where given: {', '.join(strategy.uses)}")
    if strategy.priced:
        lines.append("goes by costs: `--costs COLUMN --budget-cost C` instead of `--budget`")
    if strategy.uses_tasks:
        lines.append("reads task labels: compare it with strategies that do, too")
    lines.append(f"randomised: {_flag(strategy.randomised)}")
    lines.append(f"a selection may be cut to a smaller budget: {_flag(strategy.prefix)}")
    lines.append(f"source: {strategy.source}")
    took = measured(strategy.name) if strategy.built_in else ""
    if took:
        lines.append(f"measured: {took}")
    return lines


def _flag(flag: object) -> str:
    return "depends on its parameters" if callable(flag) else "yes" if flag else "no"


def parameter_lines(strategy: Strategy) -> list[str]:
    """Each parameter with its type and default."""
    lines = []
    for parameter in strategy.parameters.values():
        default = "must be given" if parameter.required else f"default {parameter.default!r}"
        lines.append(f"{parameter.name}={parameter.type_name} ({default})")
    if "embeddings" in (*strategy.needs, *strategy.uses):
        lines.append(
            "transform='none' or 'l2' or 'centre_l2' or 'whiten' (default 'centre_l2' for a study, 'none' for arrays)"
        )
    return lines
