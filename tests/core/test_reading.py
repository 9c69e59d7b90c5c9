"""Reading artifacts that are damaged, of other types or not ours: one sentence that names the file."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thriftune import columns
from thriftune.artifacts import read_object, read_record, read_table, reading, with_record, write_json, write_table
from thriftune.columns import checksum_of, open_embeddings
from thriftune.errors import StudyError
from thriftune.study import Study


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "damaged"),
        ("[]", "no JSON object"),
        ('{"config": []}', r"config is \[\]"),
        ("{}", "config is not there"),
        ("\udcff", "damaged"),
    ],
)
def test_objects(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StudyError, match=rf"a\.json is damaged \(.*{message}|a\.json is {message}") as caught:
        read_object(file, config=dict)
    assert "restore it from a copy" in str(caught.value)
    with pytest.raises(StudyError, match="is damaged"):
        read_object(tmp_path)


def test_values_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    with (
        pytest.raises(StudyError, match=r"plan\.json is damaged \(KeyError: 'cells'\)"),
        reading(tmp_path / "plan.json"),
    ):
        {}["cells"]  # type: ignore[index]


def test_a_changed_byte_of_a_part_is_found_and_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "000003.parquet"
    table = pa.table({"id": [f"p{i}" for i in range(200)], "x": pa.array(rng.random(200), pa.float32())})
    write_table(file, table, {"part": 3})
    whole = file.read_bytes()
    pages = whole.index(b"thriftune") - 200  # before the metadata at the end
    found = 0
    for seed in range(60):
        at = random.Random(seed).randrange(100, pages)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with contextlib.suppress(StudyError):
            assert read_table(file).equals(table)  # a byte that says nothing
            continue
        found += 1
    assert found > 50
    file.write_bytes(whole[: pages // 2] + b"!!" + whole[pages // 2 + 2 :])
    with pytest.raises(StudyError, match=r"000003\.parquet is damaged"):
        read_table(file)


def test_a_record_has_a_checksum(tmp_path: Path) -> None:
    table = with_record(pa.table({"x": [1]}), {"part": 3})
    metadata = {**table.schema.metadata, b"thriftune": b'{"part": 4}'}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    with pytest.raises(StudyError, match="checksum of its record"):
        read_record(tmp_path / "a.parquet")


def test_columns_are_what_they_should_be(tmp_path: Path) -> None:
    file = tmp_path / "pool.parquet"
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])

    def put(**changed: pa.Array) -> None:
        good = {"id": pa.array(["a", "b"]), "group": pa.array([0, 1]), "messages": pa.nulls(2, pa.list_(turn))}
        pq.write_table(pa.table({**good, **changed}), file)

    # What pandas makes of it is still the same pool.
    put(id=pa.array(["a", "b"], pa.large_string()).dictionary_encode(), group=pa.array([0.0, 1.0]))
    table = read_table(file, types=columns.POOL)
    assert table["id"].to_pylist() == ["a", "b"] and table["group"].to_pylist() == [0, 1]
    for changed, message in (
        ({"group": pa.array(["x", "y"])}, r"column 'group' is string"),
        ({"id": pa.array(["a", None])}, "column 'id' lacks values"),
        ({"messages": pa.array([[{"role": None, "content": "x"}], None], pa.list_(turn))}, "'messages' lacks values"),
        ({"messages": pa.array([[], None], pa.list_(turn))}, "'messages' lacks values"),
        ({"id": pa.array([b"\xff", b"b"]).view(pa.string())}, "damaged"),
    ):
        put(**changed)
        with pytest.raises(StudyError, match=message):
            read_table(file, types=columns.POOL)
    with pytest.raises(StudyError, match="no column 'near_group'"):
        read_table(file, ["id", "near_group"], types=columns.POOL)


def test_embeddings_that_are_not_the_runs(tmp_path: Path) -> None:
    file = tmp_path / "embeddings.npy"
    good = np.arange(12, dtype=np.float16).reshape(4, 3)
    np.save(file, good)
    checksum = checksum_of(file)
    np.testing.assert_array_equal(open_embeddings(file, 4, checksum), good)
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StudyError, match="its checksum is another"):
        open_embeddings(file, 4, checksum)
    for bad in (np.zeros(4), np.zeros((4, 0)), np.zeros((4, 3), np.int8), np.array([[None] * 3] * 4, object)):
        np.save(file, bad, allow_pickle=True)
        with pytest.raises(StudyError, match=r"embeddings\.npy is damaged"):
            open_embeddings(file, 4, None)
    np.savez(tmp_path / "a.npz", good)
    (tmp_path / "a.npz").replace(file)
    with pytest.raises(StudyError, match=r"embeddings\.npy is damaged"):
        open_embeddings(file, 4, None)


def test_meta_that_is_not_json(small_study: Study) -> None:
    table = read_table(small_study.pool_file)
    broken = pa.array(["{broken"] * len(table), pa.string())
    write_table(small_study.pool_file, table.set_column(table.column_names.index("meta"), "meta", broken), {})
    with pytest.raises(StudyError, match=r"pool\.parquet is damaged"):
        small_study.prompts(["p00"])


def test_a_study_of_format_zero(tmp_path: Path) -> None:
    write_json(tmp_path / "study.json", {"format": 0})
    with pytest.raises(StudyError, match="no format number"):
        Study(tmp_path)
