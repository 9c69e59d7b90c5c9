"""The real command line: exit code 2 and one sentence, in bounded memory and time, for input of any kind and size."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pools
import pytest
import spoiled
from verdict import complaint, tree

MEMORY = 3 << 30  # address space that a command gets
SECONDS = 240


def command(*words: str | Path, cwd: Path) -> tuple[int, str, str, float]:
    """Exit code, output, errors and CPU seconds of ``thriftune WORDS``."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, "-m", "thriftune.cli.main", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "MALLOC_ARENA_MAX": "2"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        preexec_fn=bounded,
        check=False,
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode(), spent


def refused(place: Path, *words: str | Path) -> str:
    """The one sentence with which a command ends; nothing in ``place`` may change."""
    before = tree(place)
    code, _, errors, _ = command(*words, cwd=place)
    assert code == 2, (words, code, errors[-2000:])
    last = errors.strip().splitlines()[-1]
    assert last.startswith("thriftune: ") and not complaint(last), errors[-2000:]
    assert "Traceback" not in errors
    assert tree(place) == before
    return last


def test_refusals(small_study, tmp_path, times, campaign):
    place = tmp_path / "files"
    place.mkdir()
    shutil.move(small_study.path, place / "study")
    bad: dict[str, tuple[bytes, Callable[[str], tuple[str, ...]]]] = {
        "cut.jsonl.gz": (gzip.compress(b'{"prompt": "a"}\n' * 999)[:-20], lambda f: ("init", "new", "--pool", f)),
        "utf16.csv": ("prompt\na\n".encode("utf-16"), lambda f: ("init", "new", "--pool", f)),
        "deep.json": (b"[" * 100_000, lambda f: ("init", "new", "--pool", f)),
        "p.txt": (b"prompt", lambda f: ("init", "new", "--pool", f)),
        "strict.jsonl": (
            b'{"prompt": "a\\ud800"}\n{"prompt": "b"}\n',
            lambda f: ("init", "new", "--strict", "--pool", f),
        ),
        "answers.csv": (b"id,response\np00,a\np00,b\n", lambda f: ("import", "study", f)),
        "answers.json": (b'[{"id": "p00",\n', lambda f: ("import", "study", f)),
        "run.toml": (b"[score]\nlayer = [\n", lambda f: ("score", "study", "--config", f)),
        "odd.toml": (b"[score]\nbatch_size = -1\nlayers = 3\n", lambda f: ("score", "study", "--config", f)),
        "nothing": (b"", lambda f: ("score", "study", "--model", f"./{f}")),
        "plain": (b"", lambda f: ("status", f)),
    }
    said = {}
    for name in list(bad)[: times(4, len(bad))]:
        data, words = bad[name]
        (place / name).write_bytes(data)
        said[name] = refused(place, *words(name))
    assert "after line" in said["cut.jsonl.gz"]
    (place / "study" / "study.json").write_text('{"format": 99}')
    assert "written by a newer thriftune" in refused(place, "status", "study")
    campaign["inputs"] = {"command line": len(said) + 1}


def test_a_sample_of_spoiled_pools(tmp_path, times, campaign):
    """What the campaigns inside one process found of readers holds for the command, too."""
    for seed in range(times(2, 60)):
        rng = random.Random(f"command{seed}")
        kind = rng.choice(pools.KINDS)
        data = spoiled.BYTES[rng.choice(list(spoiled.BYTES))](rng, pools.encoded(rng, pools.rows(rng), kind))
        file = tmp_path / f"pool.{kind}"
        file.write_bytes(data)
        code, _, errors, _ = command("init", "study", "--pool", file, cwd=tmp_path)
        assert code in (0, 2) and "Traceback" not in errors, (seed, errors[-1500:])
        assert (tmp_path / "study").exists() == (code == 0)
        if code == 2:
            assert not complaint(errors.strip().splitlines()[-1])
        shutil.rmtree(tmp_path / "study", ignore_errors=True)
        file.unlink()
    campaign["inputs"] = {"command line": seed + 1}


def repeated(
    file: Path, head: bytes, filling: bytes, megabytes: int, tail: bytes = b"", *, packed: bool = False
) -> None:
    with gzip.open(file, "wb", compresslevel=9) if packed else file.open("wb") as handle:
        handle.write(head)
        block = filling * ((1 << 20) // len(filling))
        for _ in range(megabytes):
            handle.write(block)
        handle.write(tail)


GOOD = b'{"prompt": "What is 3 plus 4?"}\n'
LARGE = {
    "100 MB line of jsonl": ("a.jsonl", GOOD + b'{"prompt": "', b"a", 100, b'"}\n' + GOOD, 0),
    "100 MB line without end": ("a.jsonl", GOOD + b'{"prompt": "', b"a", 100, b"", 0),
    "100 MB line of CSV": ("a.csv", b'prompt\n"', b"a", 100, b'"\n', 2),
    "100 MB JSON array": ("a.json", b"[" + GOOD.strip(), b',{"prompt": "what is it, then?"}', 100, b"]", 2),
    "100 MB of brackets": ("a.json", b"", b"[", 100, b"", 2),
    "bomb of zeros": ("a.jsonl.gz", b"", b"\x00", 2000, b"", 2),
    "bomb of line ends": ("a.csv.gz", b"prompt\n", b"\n", 2000, b"", 2),
    "bomb of Parquet": ("a.parquet.gz", b"PAR1", b"\x00", 2000, b"PAR1", 2),
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LARGE)
def test_large(name, tmp_path, times, campaign):
    """Real sizes, with 3 GiB of address space: a bomb of 2 GB is refused before it is unpacked."""
    if times(0, 1) == 0 and name != "bomb of zeros":
        pytest.skip("part of the full campaign")
    file, head, filling, size, tail, expected = LARGE[name]
    repeated(tmp_path / file, head, filling, size, tail, packed=file.endswith(".gz"))
    began = time.monotonic()
    code, _, errors, spent = command("init", "study", "--pool", file, cwd=tmp_path)
    assert code == expected and "Traceback" not in errors, errors[-1500:]
    if expected:
        assert not complaint(errors.strip().splitlines()[-1])
        assert sorted(p.name for p in tmp_path.iterdir()) == [file]
    else:
        (tmp_path / "study" / "study.json").stat()
    campaign.update(inputs={name: 1}, cpu_seconds=round(spent, 1), seconds=round(time.monotonic() - began, 1))


@pytest.mark.timeout(1200)
def test_a_large_answer(small_study, tmp_path, times, campaign):
    """An answer of 100 MB is unusual and no harm; one of 10 in the short campaign."""
    size = times(10, 100)
    file = tmp_path / "a.jsonl"
    repeated(file, b'{"id": "p00", "response": "', b"word ", size, b'"}\n')
    code, output, errors, spent = command("import", small_study.path, file, cwd=tmp_path)
    assert code == 0 and "1 new" in output, errors[-1500:]
    assert len(small_study.annotations.final()["p00"].response) > size * 10**6
    json.dumps(campaign.setdefault("inputs", {f"answer of {size} MB": 1}))
    campaign["cpu_seconds"] = round(spent, 1)
