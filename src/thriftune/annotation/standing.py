"""Where the work stands: done, left, pace and hours to go, for everyone and by person."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

from thriftune.annotation.queue import ANSWER, SETTLED, Queue

_RECENT = timedelta(hours=1)


def counts(connection: sqlite3.Connection, queue: Queue) -> dict[str, Any]:
    """How far the budget is.

    Returns:
        ``target`` prompts to be answered, ``answered`` that have a person's final answer, answers ``given`` (with
        overlap, several a prompt), prompts ``open``, ``flagged`` prompts, ``reserve`` left to take their
        place, and ``short``: for how many of them there is none.
    """
    overlap = queue.terms.overlap
    end = queue.window(connection)
    given = connection.execute(
        f"SELECT MIN(COUNT(DISTINCT a.annotator), ?) FROM ranking q JOIN annotations a "
        f"ON a.prompt_id = q.prompt_id WHERE {ANSWER} AND q.rank <= ? GROUP BY q.prompt_id",
        (overlap, end),
    ).fetchall()
    (settled,) = connection.execute(
        f"SELECT COUNT(*) FROM ranking q WHERE q.rank <= :end AND {SETTLED}", {"end": end, "overlap": overlap}
    ).fetchone()
    (flagged,) = connection.execute(
        "SELECT COUNT(DISTINCT prompt_id) FROM annotations JOIN ranking USING (prompt_id) "
        "WHERE flag IS NOT NULL AND replaced IS NULL"
    ).fetchone()
    target = queue.terms.target
    answered = min(len(given), target)
    return {
        "target": target,
        "answered": answered,
        "given": sum(row[0] for row in given),
        "open": end - settled,
        "overlap": overlap,
        "flagged": flagged,
        "reserve": len(queue.ids) - end,
        "short": target - (end - _out(connection, end)),
    }


def _out(connection: sqlite3.Connection, end: int) -> int:
    """Prompts that were flagged and that nobody answered."""
    (out,) = connection.execute(
        f"SELECT COUNT(DISTINCT f.prompt_id) FROM annotations f JOIN ranking q ON q.prompt_id = f.prompt_id "
        f"WHERE f.flag IS NOT NULL AND f.replaced IS NULL AND q.rank <= ? AND NOT EXISTS "
        f"(SELECT 1 FROM annotations a WHERE a.prompt_id = f.prompt_id AND {ANSWER})",
        (end,),
    ).fetchone()
    return int(out)


def standing(connection: sqlite3.Connection, queue: Queue, moment: datetime | None = None) -> dict[str, Any]:
    """The counts with pace and people.

    Args:
        connection: in a transaction.
        queue: the ranking, refreshed.
        moment: the present; tests give their own.

    Returns:
        `counts`, and ``seconds`` an answer takes on average (idle time excluded), ``hours_left`` of work at that pace,
        ``last_hour`` answers given, ``people`` with their own figures, the busiest first.
    """
    moment = moment or datetime.now(UTC)
    since = (moment - _RECENT).isoformat(timespec="milliseconds")
    people = [
        {
            "name": name,
            "answers": answers,
            "skipped": skipped,
            "flagged": flagged,
            "seconds": seconds,
            "spent": spent or 0.0,
            "last_hour": recent,
            "last": last,
        }
        for name, answers, skipped, flagged, seconds, spent, recent, last in connection.execute(
            """
            SELECT annotator, SUM(status = 'final'), SUM(status = 'skipped' AND flag IS NULL), SUM(flag IS NOT NULL),
                   AVG(CASE WHEN status = 'final' AND seconds > 0 THEN seconds END), SUM(seconds),
                   SUM(status = 'final' AND created >= ?), MAX(created)
            FROM annotations JOIN ranking USING (prompt_id)
            WHERE source = 'human' AND review = 0 AND replaced IS NULL AND status IN ('final', 'skipped')
            GROUP BY annotator ORDER BY 2 DESC, annotator
            """,
            (since,),
        )
    ]
    found = counts(connection, queue)
    timed = [(p["answers"], p["seconds"]) for p in people if p["seconds"] is not None]
    total = sum(n for n, _ in timed)
    mean = sum(n * s for n, s in timed) / total if total else None
    missing = _missing(connection, queue)
    return {
        **found,
        "missing": missing,
        "seconds": mean,
        "hours_left": None if mean is None else missing * mean / 3600,
        "last_hour": sum(p["last_hour"] for p in people),
        "people": people,
    }


def _missing(connection: sqlite3.Connection, queue: Queue) -> int:
    """Answers that are still to be given: what open prompts lack, and what the reserve cannot fill is not counted."""
    rows = connection.execute(
        f"""
        SELECT :overlap - (SELECT COUNT(DISTINCT a.annotator) FROM annotations a
                           WHERE a.prompt_id = q.prompt_id AND a.review = 0 AND {ANSWER})
        FROM ranking q WHERE q.rank <= :end AND NOT {SETTLED}
        """,
        {"end": queue.window(connection), "overlap": queue.terms.overlap},
    ).fetchall()
    return sum(max(row[0], 1) for row in rows)
