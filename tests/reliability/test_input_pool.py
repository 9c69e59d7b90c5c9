"""Bad pools: `init` makes a valid study of what is good in them, or says what is wrong and leaves nothing."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pools
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spoiled
import tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from verdict import Verdict

from thriftune.config import InitConfig
from thriftune.pool import csv_rows, files, json_rows
from thriftune.pool import rows as row_module
from thriftune.pool.build import init


class Maker:
    """Makes studies of bytes in one directory that must be empty again after each refusal."""

    def __init__(self, place: Path) -> None:
        self.input, self.output = place / "in", place / "out"
        self.input.mkdir()
        self.output.mkdir()
        self.verdict = Verdict([self.output])

    def __call__(self, category: str, label: Any, name: str, data: bytes, **config: Any) -> bool:
        file = self.input / name
        file.write_bytes(data)
        study = self.output / "study"
        accepted = self.verdict(
            category, label, lambda: init(study, [file], InitConfig.model_validate(config)), pools.check
        )
        file.unlink()
        shutil.rmtree(study, ignore_errors=True)
        return accepted


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.mark.parametrize("category", spoiled.BYTES)
def test_spoiled_bytes(category, maker, times, campaign):
    for seed in range(times(15, 400)):
        rng = random.Random(f"{category}{seed}")
        kind = rng.choice(pools.KINDS)
        data = spoiled.BYTES[category](rng, pools.encoded(rng, pools.rows(rng), kind))
        maker(category, seed, f"pool.{kind}", data, strict=rng.random() < 0.1, holdout=rng.choice((0, 0, 2)))
    maker.verdict.report(campaign)


def test_truncated_gzip_says_after_which_line(maker, campaign):
    data = b"".join(b'{"id": "%d", "prompt": "what is %d?"}\n' % (i, i * 7919 % 10007) for i in range(5000))
    packed = gzip.compress(data)
    maker("truncated gzip", 0, "pool.jsonl.gz", packed[: len(packed) // 2])
    (message,) = maker.verdict.messages["truncated gzip"]
    assert "is damaged or truncated after line" in message


def test_duplicate_and_odd_ids(maker, times, campaign):
    for seed in range(times(15, 300)):
        rng = random.Random(f"duplicate{seed}")
        found = [pools.LAYOUTS[0](rng, i) for i in range(6)]
        for row in rng.sample(found, rng.randrange(2, 6)):
            row["id"] = rng.choice(("p0", "p0", "p1", 0, 1))
        kind = rng.choice(("jsonl", "json", "csv", "tsv"))
        maker("duplicate ids", seed, f"pool.{kind}", pools.encoded(rng, found, kind), strict=rng.random() < 0.2)
    for seed in range(times(15, 300)):
        rng = random.Random(f"odd{seed}")
        found = [pools.LAYOUTS[0](rng, i) for i in range(6)]
        for row in rng.sample(found, rng.randrange(1, 6)):
            row["id"] = rng.choice(spoiled.ODD_IDS)
        kind = rng.choice(("jsonl", "json"))
        maker("ids with slashes and newlines", seed, f"pool.{kind}", pools.encoded(rng, found, kind))
    maker.verdict.report(campaign)


def test_wide_csv(maker, times, campaign):
    for seed in range(times(6, 300)):
        rng = random.Random(f"wide{seed}")
        width = rng.choice((10_000, 10_000, 3_000, 20_000))
        names = [f"c{i}" for i in range(width)]
        if rng.random() < 0.8:
            names[rng.randrange(width)] = "prompt"
        if rng.random() < 0.3:
            names[rng.randrange(width)] = names[rng.randrange(width)]
        separator = rng.choice(",;\t")
        lines = [separator.join(names)]
        for i in range(4):
            cells = [f"what is {i}?"] * (width + rng.choice((0, 0, 0, 1, -1)))
            if rng.random() < 0.2:
                cells[rng.randrange(len(cells))] = '"'
            lines.append(separator.join(cells))
        data = "\n".join(lines).encode()
        maker("10,000-column CSV", seed, "pool.csv", spoiled.mutated(rng, data) if rng.random() < 0.3 else data)
    maker.verdict.report(campaign)


def test_long_lines(maker, times, campaign, monkeypatch):
    """100 MB lines scaled down: the limit is 64 KiB here and the lines are half of it to ten times as long."""
    for module in (csv_rows, json_rows, row_module):
        monkeypatch.setattr(module, "LONGEST_LINE", 1 << 16)
    monkeypatch.setattr(json_rows, "LONGEST_DOCUMENT", 1 << 18)
    for seed in range(times(15, 300)):
        rng = random.Random(f"long{seed}")
        kind = rng.choice(("jsonl", "json", "csv", "tsv"))
        found = pools.rows(rng)
        size = rng.choice((1 << 15, (1 << 16) - 40, 1 << 16, (1 << 16) + 1, 100_000, 650_000))
        row = rng.choice(found)
        row[rng.choice(list(row))] = rng.choice(("x", "é", '"', "\n", " ", "\u2028")) * size
        data = pools.encoded(rng, found, kind)
        if rng.random() < 0.3:
            data = rng.choice((b"", b"{", b'{"prompt": "')) + b"a" * size + rng.choice((b"", b"\n")) + data
        maker("100 MB lines", seed, f"pool.{kind}", gzip.compress(data, 1) if rng.random() < 0.3 else data)
    maker.verdict.report(campaign)


def test_bombs(maker, times, campaign, monkeypatch):
    """Gzip bombs scaled down: 4 MiB where 64 KiB are harmless; the real size is in test_input_large.py."""
    monkeypatch.setattr(files, "_HARMLESS", 1 << 16)
    for module in (csv_rows, json_rows, row_module):
        monkeypatch.setattr(module, "LONGEST_LINE", 1 << 18)
    for seed in range(times(10, 300)):
        rng = random.Random(f"bomb{seed}")
        kind = rng.choice(pools.KINDS)
        data = spoiled.bomb(rng, pools.encoded(rng, pools.rows(rng), kind), 1 << 22)
        maker("zip bombs", seed, f"pool.{kind}{rng.choice(('', '.gz'))}", data)
    maker.verdict.report(campaign)
    said = "".join(maker.verdict.messages["zip bombs"])
    assert "times its size" in said


def test_wrong_parquet_types(maker, times, campaign):
    for seed in range(times(15, 400)):
        rng = random.Random(f"types{seed}")
        table = pa.Table.from_pylist(pools.rows(rng))
        for name in rng.sample(table.column_names, rng.randrange(1, len(table.column_names) + 1)):
            column = tables.other_column(rng, len(table))
            table = table.set_column(table.column_names.index(name), name, column)
        sink = io.BytesIO()
        try:
            pq.write_table(table, sink)
        except (pa.ArrowException, OverflowError):
            continue  # Parquet has no such type
        maker("wrong Parquet types", seed, "pool.parquet", sink.getvalue(), strict=rng.random() < 0.1)
    maker.verdict.report(campaign)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    (
        *("id", "prompt", "messages", "conversations", "instruction", "input", "context", "output", "response"),
        *("text", "question", "system", "task", "chat", "x"),
    )
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(("user", "assistant", "system", "tool", "other")) | JSON,
            "content": st.text(max_size=5) | JSON,
            "from": st.sampled_from(("human", "gpt")) | JSON,
            "value": st.text(max_size=5) | JSON,
        },
    ),
    max_size=3,
)
ROWS = st.lists(st.dictionaries(NAMES, JSON | TURNS | st.text(max_size=8), max_size=6) | JSON, min_size=1, max_size=5)


def test_any_json(tmp_path, times, campaign):
    """Whatever JSON a line holds, with any columns named."""
    maker = Maker(tmp_path)
    named = st.none() | st.sampled_from(("prompt", "messages", "none", "x", "", "id"))

    @settings(max_examples=times(60, 1000), derandomize=times(1, 0) == 1, suppress_health_check=list(HealthCheck))
    @given(ROWS, st.booleans(), named, named, named, st.sampled_from((0, 1, 5)))
    def check(found, lines, prompt, identifier, response, holdout):
        kind = "jsonl" if lines else "json"
        data = "".join(json.dumps(r) + "\n" for r in found) if lines else json.dumps(found)
        config = {"prompt_column": prompt, "id_column": identifier, "response_column": response, "holdout": holdout}
        maker("any JSON", found, f"pool.{kind}", data.encode(), **config)

    check()
    maker.verdict.report(campaign)


def test_names_and_places(maker, tmp_path, campaign):
    """No pool by their name, not there, directories, pipes without a writer, links in a circle."""
    names = ("pool.txt", "pool", "pool.jsonl.bz2", "pool.xlsx", "pool.arrow", "pool.gz", "pool.json.txt")
    for name in names:
        maker("names and places", name, name, b'{"prompt": "what?"}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "up").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "folder.jsonl" / "pipe.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    places = (
        "missing.jsonl",
        "empty",
        "folder.jsonl",
        "circle",
        "pipe.jsonl",
        "\ud800.jsonl",
        "a" * 300,
        "a\nb",
        "a\x00b",
    )
    for name in places:
        study = maker.output / "study"
        maker.verdict("names and places", name, functools.partial(init, study, [tmp_path / name]))
    maker.verdict.report(campaign)
    assert maker.verdict.refused["names and places"] == len(names) + len(places)
