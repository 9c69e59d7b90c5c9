"""Good pools in every layout and format that `init` reads, and what a study made of one must look like."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thriftune.pool.build import InitSummary

Rows = list[dict[str, Any]]


def _text(rng: random.Random, i: int) -> str:
    return f"{rng.choice(('What is', 'Tell me', 'Übersetze', '日本語'))} {i} {' '.join(rng.sample(_WORDS, 5))}"


_WORDS = ("sum", "of", "colour", "tree", "fox, quick", 'said "hi"', "line\nbreak", "é", "🧵", "seven", "tab\there")


def _plain(rng: random.Random, i: int) -> dict[str, Any]:
    return {"id": f"p{i}", "prompt": _text(rng, i), "response": "yes", "task": "t", "n": i}


def _messages(rng: random.Random, i: int) -> dict[str, Any]:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": _text(rng, i)}]
    return {"messages": turns + [{"role": "assistant", "content": "ok"}] * rng.randrange(2), "id": i}


def _sharegpt(rng: random.Random, i: int) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": _text(rng, i)}, {"from": "gpt", "value": "ok"}]}


def _alpaca(rng: random.Random, i: int) -> dict[str, Any]:
    return {"instruction": _text(rng, i), "input": rng.choice(("", "more")), "output": "out"}


def _dolly(rng: random.Random, i: int) -> dict[str, Any]:
    return {"instruction": _text(rng, i), "context": rng.choice(("", "ctx")), "response": "r", "category": "qa"}


LAYOUTS: tuple[Callable[[random.Random, int], dict[str, Any]], ...] = (_plain, _messages, _sharegpt, _alpaca, _dolly)


def rows(rng: random.Random, count: int = 6) -> Rows:
    layout = rng.choice(LAYOUTS)
    return [layout(rng, i) for i in range(count)]


def encoded(rng: random.Random, found: Rows, kind: str) -> bytes:
    """Rows as a file of a kind."""
    if kind == "jsonl":
        return "".join(json.dumps(r, ensure_ascii=rng.random() < 0.5) + "\n" for r in found).encode(
            "utf-8", "surrogatepass"
        )
    if kind == "json":
        document: Any = found if rng.random() < 0.6 else {"version": 1, "data": found}
        return json.dumps(document, indent=rng.choice((None, 2))).encode()
    if kind in ("csv", "tsv"):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(found[0]), delimiter="\t" if kind == "tsv" else rng.choice(",;"))
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()} for r in found)
        return out.getvalue().encode()
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(found), sink, row_group_size=rng.choice((2, 100)))
    return sink.getvalue()


KINDS = ("jsonl", "json", "csv", "tsv", "parquet")


def check(made: InitSummary) -> None:
    """What docs/artifacts.md promises of a pool, whatever it was made of."""
    table = made.study.pool(split=None)
    assert str(table.schema.field("group").type) == str(table.schema.field("line").type) == "int64"
    found = table.to_pylist()
    assert len(found) == made.prompts > 0
    assert len({r["id"] for r in found}) == len(found)
    for r in found:
        texts = [r["id"], r["text"], r["task"] or "", *(t["content"] for t in r["messages"] or [])]
        assert all("\x00" not in t and t.encode() for t in texts if t) and r["id"] and r["text"].strip()
        assert r["n_chars"] == len(r["text"]) and r["line"] >= 1 and r["source"]
        assert r["meta"] is None or isinstance(json.loads(r["meta"]), dict)
        assert r["messages"] is None or r["messages"][-1]["role"] == "user"
    assert set(made.study.references()) <= {r["id"] for r in found}
    rejects = made.study.rejects_file
    lines = rejects.read_text(encoding="utf-8").split("\n")[:-1] if rejects.exists() else []
    assert len(lines) == sum(made.rejects.values())
    assert all({"source", "line", "reason", "detail", "row"} == set(json.loads(line)) for line in lines)
    made.study.prompts([r["id"] for r in found])
