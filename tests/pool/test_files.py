"""Every format, plain and compressed, and what each reader makes of damage."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thriftune.errors import PoolError
from thriftune.pool import files as files_module
from thriftune.pool import json_rows
from thriftune.pool import rows as rows_module
from thriftune.pool.files import format_of, read_file
from thriftune.pool.read import find_sources
from thriftune.pool.rows import Reject, Row

ROWS = [
    {"prompt": "What is 3 + 4?", "answer": "7"},
    {"prompt": 'Say "hi",\nthen leave; ok?', "answer": "hi"},
    {"prompt": "Übersetze: 猫 🐈", "answer": ""},
]


def encode(rows: list[dict[str, str]], name: str) -> bytes:
    if ".parquet" in name:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    if ".csv" in name or ".tsv" in name:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if ".tsv" in name else ",")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    if ".jsonl" in name:
        return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    return json.dumps(rows, indent=1).encode()


def compress(data: bytes, name: str) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    if name.endswith(".zst"):
        return bytes(pa.Codec("zstd").compress(data, asbytes=True))
    return data


def read(path: Path) -> list[Row | Reject]:
    return list(read_file(path, lambda _: None))


def values(path: Path) -> list[dict[str, Any]]:
    items = read(path)
    assert all(isinstance(i, Row) for i in items), items
    return [i.values for i in items if isinstance(i, Row)]


def put(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str, compression: str) -> None:
    kind = {".ndjson": ".jsonl", ".pq": ".parquet"}.get(suffix, suffix)
    name = f"pool.v1{suffix}{compression}"
    path = put(tmp_path / name, compress(encode(ROWS, kind), name))
    metered: list[float] = []
    items = list(read_file(path, metered.append))
    assert [i.values for i in items if isinstance(i, Row)] == ROWS
    by_row = [1, 2, 3] if kind not in (".csv", ".tsv") else [2, 3, 5]  # the second record spans two lines
    assert [i.line for i in items] == by_row
    assert sum(metered) == pytest.approx(path.stat().st_size)


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    data = encode(ROWS, ".jsonl")
    assert values(put(tmp_path / "a.jsonl.gz", gzip.compress(data) + gzip.compress(data))) == ROWS + ROWS


def test_compression_is_told_from_the_bytes_not_the_name(tmp_path: Path) -> None:
    assert values(put(tmp_path / "a.jsonl", gzip.compress(encode(ROWS, ".jsonl")))) == ROWS
    assert values(put(tmp_path / "b.jsonl.gz", encode(ROWS, ".jsonl"))) == ROWS


def test_format_of() -> None:
    assert format_of(Path("x.JSONL.GZ")) == "json"
    assert format_of(Path("a.b.parquet")) == "parquet"
    assert format_of(Path("x.gz")) is None
    assert format_of(Path("x.txt")) is None


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str) -> None:
    assert values(put(tmp_path / name, b"\xef\xbb\xbf" + encode(ROWS, name))) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_utf16_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    path = put(tmp_path / name, encode(ROWS, name).decode().encode(encoding))
    with pytest.raises(PoolError, match=r"is UTF-16, not UTF-8: convert it with: iconv"):
        read(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_file_says_how_far_it_got(tmp_path: Path, suffix: str) -> None:
    # Numbers that do not compress to nothing, so that half of the file is many lines.
    lines = "".join(
        json.dumps({"prompt": f"{i * 2654435761 % 2**32} and {i * 40503 % 65521}"}) + "\n" for i in range(40000)
    )
    whole = compress(lines.encode(), suffix)
    path = put(tmp_path / f"a.jsonl{suffix}", whole[: len(whole) // 2])
    with pytest.raises(PoolError) as caught:
        read(path)
    found = re.search(rf"a\.jsonl\{suffix} is damaged or truncated after line ([\d,]+) \(.+\): get", str(caught.value))
    assert found
    assert 18_000 < int(found[1].replace(",", "")) <= 20_500


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    data = encode(ROWS, ".parquet")
    for broken in (data[:-10], data[: len(data) // 2], b"PAR1", b"no parquet at all", b""):
        with pytest.raises(PoolError, match=r"a\.parquet is damaged or truncated from the start"):
            read(put(tmp_path / "a.parquet", broken))


def test_parquet_under_another_name(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"is a Parquet file: name it \.parquet"):
        read(put(tmp_path / "a.jsonl", encode(ROWS, ".parquet")))


def test_bad_lines_of_jsonl_are_rejected_one_by_one(tmp_path: Path) -> None:
    lines = [
        b'{"prompt": "fine"}',
        b'{"prompt": "cut',
        b"[1, 2]",
        b'"text"',
        b"",
        b'{"prompt": "caf\xe9"}',
        b'{"prompt": ' + b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"prompt": "last"}',
    ]
    items = read(put(tmp_path / "a.jsonl", b"\r\n".join(lines)))
    found = [(i.line, i.reason if isinstance(i, Reject) else "row") for i in items]
    assert found == [
        (1, "row"),
        (2, "broken JSON"),
        (3, "not an object"),
        (4, "not an object"),
        (6, "not UTF-8"),
        (7, "broken JSON"),
        (8, "broken JSON"),
        (9, "row"),
    ]
    rejects = {i.line: i for i in items if isinstance(i, Reject)}
    assert rejects[2].row == '{"prompt": "cut'
    assert rejects[3].row == [1, 2]
    assert rejects[6].row == '{"prompt": "caf\\xe9"}'
    assert "0xe9" in rejects[6].detail


def test_an_overlong_line_is_rejected_and_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "LONGEST_LINE", 1000)
    long = json.dumps({"prompt": "x" * 5000})
    path = put(tmp_path / "a.jsonl", '{"prompt": "a"}\n' + long + '\n{"prompt": "b"}\n' + long)
    items = read(path)
    assert [(i.line, isinstance(i, Row)) for i in items] == [(1, True), (2, False), (3, True), (4, False)]
    assert isinstance(items[1], Reject)
    assert items[1].reason == "line too long"
    assert items[1].row.startswith('{"prompt": "xxx')


def test_json_may_be_lines_an_array_or_a_wrapped_array(tmp_path: Path) -> None:
    lines = "\n" + "".join(json.dumps(r) + "\n" for r in ROWS)
    assert values(put(tmp_path / "a.json", lines)) == ROWS
    assert values(put(tmp_path / "b.jsonl", json.dumps(ROWS))) == ROWS
    assert values(put(tmp_path / "c.json", json.dumps({"version": "1", "data": ROWS}))) == ROWS
    assert values(put(tmp_path / "d.json", json.dumps(ROWS[0], indent=2))) == [ROWS[0]]
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    assert values(put(tmp_path / "e.json", json.dumps(chat))) == [chat]
    first_line_is_an_array = '["no", "object"]\n{"prompt": "a"}\n'
    assert [type(i) for i in read(put(tmp_path / "f.jsonl", first_line_is_an_array))] == [Reject, Row]
    items = read(put(tmp_path / "g.json", '[{"prompt": "a"}, 7]'))
    assert [(i.line, type(i)) for i in items] == [(1, Row), (2, Reject)]


@pytest.mark.parametrize("text", ['[{"prompt": "a"},\n {"prompt" "b"}]', '{"a": 1,\n "b": ', "[" * 100_000])
def test_a_broken_json_document(tmp_path: Path, text: str) -> None:
    with pytest.raises(PoolError, match=r"a\.json(:2: neither a JSON array nor JSON lines| is nested too deeply)"):
        read(put(tmp_path / "a.json", text))


def test_bad_records_of_csv(tmp_path: Path) -> None:
    data = b'prompt,answer\nfine,1\ntoo,many,fields\nfew\n\ncaf\xe9,2\n"two\nlines",3\n"closed"early,4\nlast,5\n'
    items = read(put(tmp_path / "a.csv", data))
    assert [(i.line, i.reason if isinstance(i, Reject) else "row") for i in items] == [
        (2, "row"),
        (3, "wrong number of fields"),
        (4, "wrong number of fields"),
        (6, "not UTF-8"),
        (7, "row"),
        (9, "broken CSV"),
        (10, "row"),
    ]
    assert isinstance(items[1], Reject)
    assert items[1].row == "too,many,fields"
    assert items[4] == Row(7, {"prompt": "two\nlines", "answer": "3"})


def test_an_unclosed_quote_takes_no_rows_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PoolError, match=r"a\.csv:3: a quote that opens here is not closed in the 2 lines"):
        read(put(tmp_path / "a.csv", 'prompt\nfine\n"never closed\nmore\n'))
    with monkeypatch.context() as context:
        context.setattr("thriftune.pool.csv_rows.LONGEST_LINE", 1000)  # where the csv module gives up
        with pytest.raises(PoolError, match=r"d\.csv:3: a quote that opens here is not closed in the "):
            read(put(tmp_path / "d.csv", 'prompt\nfine\n"never closed\n' + "more\n" * 1000))
    items = read(put(tmp_path / "b.csv", 'prompt\nfine\n"never closed\nmore\nand "this\nlast\n'))
    assert [(i.line, isinstance(i, Row)) for i in items] == [(2, True), (3, False), (6, True)]
    assert isinstance(items[1], Reject)
    assert items[1].detail.endswith("in a record of 3 lines")
    items = read(put(tmp_path / "c.csv", 'prompt\nfine\n"cut off'))  # by a full disk, say: one row
    assert [(i.line, isinstance(i, Row)) for i in items] == [(2, True), (3, False)]


def test_csv_with_semicolons(tmp_path: Path) -> None:
    assert values(put(tmp_path / "a.csv", "prompt;answer\nHello, you;1\n")) == [{"prompt": "Hello, you", "answer": "1"}]


def test_a_field_longer_than_the_csv_module_allows_by_default(tmp_path: Path) -> None:
    long = "word " * 40_000
    assert values(put(tmp_path / "a.csv", f"prompt,n\n{long},1\n")) == [{"prompt": long, "n": "1"}]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"prompt,prompt\na,b\n", "names 'prompt' twice"), (b"pr\xffompt,x\na,b\n", "header is not UTF-8")],
)
def test_a_bad_csv_header(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(PoolError, match=message):
        read(put(tmp_path / "a.csv", data))


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"caf\xe9", b"also fine"], pa.binary())
    pq.write_table(pa.table({"prompt": raw.view(pa.string())}), tmp_path / "a.parquet")
    items = read(tmp_path / "a.parquet")
    assert items[0] == Row(1, {"prompt": "fine"})
    assert items[2] == Row(3, {"prompt": "also fine"})
    assert isinstance(items[1], Reject)
    assert (items[1].line, items[1].reason) == (2, "not UTF-8")


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="No such file"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(PoolError, match="directory"):
        read(tmp_path / "d.csv")


_NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.csv.zst", "a.parquet.zst"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(_NAMES), data=st.binary(max_size=300))
def test_any_bytes_give_rows_rejects_or_a_pool_error(tmp_path: Path, name: str, data: bytes) -> None:
    path = put(tmp_path / name, data)
    message = name
    try:
        for item in read(path):
            assert item.line >= 1
    except PoolError as error:
        message = str(error)
    assert name in message


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(_NAMES),
    at=st.floats(0, 1, exclude_max=True),
    replacement=st.binary(max_size=8),
    dropped=st.integers(0, 40),
)
def test_damaged_files_give_rows_rejects_or_a_pool_error(
    tmp_path: Path, name: str, at: float, replacement: bytes, dropped: int
) -> None:
    data = compress(encode(ROWS * 5, name), name)
    start = int(at * len(data))
    path = put(tmp_path / name, data[:start] + replacement + data[start + dropped :])
    message = name
    try:
        read(path)
    except PoolError as error:
        message = str(error)
    assert name in message


def test_a_gzip_bomb_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_HARMLESS", 1 << 20)
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=9) as handle:
        for _ in range(8):
            handle.write(b"\n" * (1 << 20))
    with pytest.raises(PoolError, match=r"a\.jsonl\.gz unpacks to more than 300 times its size"):
        read(tmp_path / "a.jsonl.gz")


def test_a_json_document_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_DOCUMENT", 1000)
    with pytest.raises(PoolError, match=r"write one object a line, e\.g\. with: jq"):
        read(put(tmp_path / "a.json", json.dumps([{"prompt": "x" * 2000}])))


def test_millions_of_blank_lines(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", b"\n" * 300_000 + b'{"prompt": "a"}\n')
    assert read(file) == [Row(300_001, {"prompt": "a"})]
    with pytest.raises(PoolError, match=r"a\.json:4: "):
        read(put(tmp_path / "a.json", b"\n[\n\n?]"))


def test_a_broken_line_is_named_by_its_own_number(tmp_path: Path) -> None:
    (_, reject) = read(put(tmp_path / "a.jsonl", '{"prompt": "a"}\n{"prompt": }\n'))
    assert isinstance(reject, Reject)
    assert (reject.line, reject.detail) == (2, "Expecting value, column 12")


def test_a_header_with_very_many_repetitions(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="names 'c0' and 4,999 more twice") as caught:
        read(put(tmp_path / "a.csv", ",".join(f"c{i % 5000}" for i in range(10_000)) + "\n"))
    assert len(str(caught.value)) < 300


def test_a_directory_with_a_pipe_and_a_link_to_itself(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", '{"prompt": "a"}\n')
    os.mkfifo(tmp_path / "pipe.jsonl")  # reading it would wait for ever
    (tmp_path / "up").symlink_to(tmp_path)
    assert [s.name for s in find_sources([tmp_path])] == [str(tmp_path / "a.jsonl")]


def test_a_name_that_no_file_can_have() -> None:
    for name in ("x" * 300 + ".jsonl", "a\x00b.jsonl"):
        with pytest.raises(PoolError, match="check"):
            find_sources([name])
