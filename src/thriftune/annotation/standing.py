"""Where the work stands: done, left, pace and hours to go, for everyone and by person."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

_RECENT = timedelta(hours=1)


def standing(
    connection: sqlite3.Connection,
    ranking: Container[str],
    counts: Mapping[str, int],
    moment: datetime | None = None,
) -> dict[str, Any]:
    """The counts with pace and people.

    Args:
        connection: in a transaction.
        ranking: the prompts that count.
        counts: of `Queue.counts`.
        moment: the present; tests give their own.

    Returns:
        ``counts``, and ``seconds`` an answer takes on average (idle time excluded), ``hours_left`` of work at that
        pace, ``last_hour`` answers given, ``people`` with their own figures, the busiest first.
    """
    since = ((moment or datetime.now(UTC)) - _RECENT).isoformat(timespec="milliseconds")
    people: dict[str, dict[str, Any]] = {}
    for name, prompt_id, final, flagged, seconds, created in connection.execute(
        "SELECT annotator, prompt_id, status = 'final', flag IS NOT NULL, seconds, created FROM annotations "
        "WHERE source = 'human' AND review = 0 AND replaced IS NULL AND status IN ('final', 'skipped')"
    ):
        if prompt_id not in ranking:
            continue
        person = people.setdefault(name, {"name": name, **_NOTHING_DONE})
        person["answers"] += final
        person["flagged"] += flagged
        person["skipped"] += not final and not flagged
        person["spent"] += seconds or 0.0
        person["last_hour"] += final and created >= since
        person["last"] = max(person["last"], created)
        if final and seconds:
            person["timed"] += 1
            person["seconds"] += seconds
    busiest = sorted(people.values(), key=lambda p: (-p["answers"], p["name"]))
    timed = sum(p["timed"] for p in busiest)
    mean = sum(p["seconds"] for p in busiest) / timed if timed else None
    for person in busiest:
        of = person.pop("timed")
        person["seconds"] = person["seconds"] / of if of else None
    return {
        **counts,
        "seconds": mean,
        "hours_left": None if mean is None else counts["missing"] * mean / 3600,
        "last_hour": sum(p["last_hour"] for p in busiest),
        "people": busiest,
    }


_NOTHING_DONE = {
    **dict.fromkeys(("answers", "skipped", "flagged", "last_hour", "timed"), 0),
    **{"seconds": 0.0, "spent": 0.0, "last": ""},
}
