from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from thriftune.artifacts import (
    atomic_path,
    file_digest,
    provenance,
    read_json,
    read_record,
    read_table,
    write_json,
    write_table,
)
from thriftune.errors import StudyError


def test_a_file_appears_whole_and_follows_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    before = os.umask(0o027)
    try:
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.suffix == ".txt"
            temporary.write_text("whole")
            assert not target.exists()
    finally:
        os.umask(before)
    assert target.read_text() == "whole"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"ß": 1})
    for value in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(target, value)
    assert read_json(target) == {"ß": 1}


_WRITER = """
import itertools, sys
from pathlib import Path
from thriftune.artifacts import atomic_path
target = Path(sys.argv[1])
for i in itertools.count():
    with atomic_path(target) as temporary:
        with temporary.open("w") as handle:
            for _ in range(200):
                handle.write(f"{i:08d}\\n" * 50)
                handle.flush()
    if i == 0:
        print("ready", flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    for delay in (0.0, 0.003, 0.011, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(target)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        lines = target.read_text().splitlines()
        assert len(lines) == 10_000
        assert len(set(lines)) == 1


def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    (tmp_path / ".a.k1ll3d.tmp.txt").write_text("half")
    (tmp_path / ".b.k1ll3d.tmp.txt").write_text("half of another")
    with atomic_path(target) as one, atomic_path(target) as two:
        one.write_text("one")
        two.write_text("two")
    assert target.read_text() == "one"
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", ".b.k1ll3d.tmp.txt"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path, there: bool) -> None:
    link, real = tmp_path / "link.txt", tmp_path / "elsewhere" / "real.txt"
    real.parent.mkdir()
    if there:
        real.write_text("old")
    link.symlink_to(Path("elsewhere", "real.txt"))
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert list(real.parent.iterdir()) == [real]


def test_a_named_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    try:
        with atomic_path(pipe) as temporary:
            temporary.write_text("through")
        assert reader.communicate(timeout=30)[0] == b"through"
    finally:
        reader.kill()
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        pytest.skip("devices cannot be made here")
    with atomic_path(device) as temporary:
        temporary.write_text("gone")
    assert device.is_char_device()
    assert list(tmp_path.iterdir()) == [device]


def test_table_and_record_survive(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    table = pa.table({"id": ["a", "b"], "x": pa.array([1.5, None], pa.float32())})
    write_table(file, table, {"seed": 3, "ß": [1, None]})
    assert read_table(file).equals(table)
    assert read_table(file, ["x"]).column_names == ["x"]
    assert read_record(file) == {"seed": 3, "ß": [1, None]}


def test_damage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    for read in (read_table, read_record, read_json):
        with pytest.raises(StudyError, match=r"t\.parquet is missing"):
            read(file)
    write_table(file, pa.table({"x": [1]}), {})
    file.write_bytes(file.read_bytes()[:-10])
    for read in (read_table, read_record, read_json):
        with pytest.raises(StudyError, match=r"t\.parquet is damaged"):
            read(file)
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), file)
    with pytest.raises(StudyError, match="not written by thriftune"):
        read_record(file)


def test_provenance_says_what_made_it() -> None:
    made = provenance(seed=1)
    assert made["seed"] == 1
    assert made["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"thriftune", "numpy", "pyarrow"} <= made["versions"].keys()
    assert made["created"].endswith("+00:00")


def test_digest_by_a_known_answer(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
