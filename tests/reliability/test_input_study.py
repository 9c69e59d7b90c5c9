"""Studies that were edited, copied badly or written by another version: every reader says which file is at fault."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import spoiled
import tables
import whole_study
from verdict import Verdict

from thriftune.artifacts import read_record, read_table, with_record, write_json
from thriftune.study import FORMAT, Study


class Patient:
    """Copies of a whole study to do harm to."""

    def __init__(self, place: Path, model: Path) -> None:
        self.pristine, self.root = place / "pristine", place / "work" / "study"
        whole_study.make(self.pristine, model)
        write_json(self.pristine / "model.json", str(model))
        self.verdict = Verdict([self.root])
        self.heal()

    def heal(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root)

    def files(self, pattern: str) -> list[Path]:
        return sorted(p.relative_to(self.pristine) for p in self.pristine.rglob(pattern))

    def read(self, category: str, label: Any, reader: str) -> None:
        self.verdict(category, f"{label} {reader}", whole_study.readers(self.root)[reader])
        self.heal()


@pytest.fixture
def patient(tmp_path: Path, tiny_model: Path) -> Patient:
    return Patient(tmp_path, tiny_model)


READERS = tuple(whole_study.readers(Path()))


def test_everything_reads_the_whole_study(patient):
    for reader in READERS:
        whole_study.readers(patient.root)[reader]()


def test_json_of_a_study(patient, times, campaign):
    """Every JSON file with values of other types, keys left out, bytes changed; NaN, bombs, other encodings."""
    files = [f for f in patient.files("*.json*") if f.name != "model.json"]
    spoilers = ("truncated", "mutated", "byte order marks", "UTF-16 and others", "NUL bytes", "nested JSON bombs")
    for seed in range(times(30, 1500)):
        rng = random.Random(f"json{seed}")
        file = rng.choice(files)
        data = (patient.root / file).read_bytes()
        if rng.random() < 0.75:
            changed = json.dumps(
                spoiled.other_tree(rng, json.loads(data.splitlines()[0] if ".jsonl" in file.name else data))
            )
            data = (changed + "\n").encode("utf-8", "surrogatepass")
        else:
            data = spoiled.BYTES[rng.choice(spoilers)](rng, data)
        (patient.root / file).write_bytes(data)
        reader = rng.choice([r for r in READERS if r != "report" or rng.random() < 0.5])
        patient.read("JSON of a study", f"{seed} {file}", reader)
    patient.verdict.report(campaign)


def test_newer_versions(patient, times, campaign):
    for seed in range(times(10, 300)):
        rng = random.Random(f"newer{seed}")
        reader = rng.choice(READERS)
        newer = FORMAT + rng.choice((10, 11, 10**6, 10**30))
        if rng.random() < 0.7:
            written = json.loads((patient.root / "study.json").read_text())
            write_json(patient.root / "study.json", {**written, "format": newer, "unknown": {"x": [1]}})
        else:
            with Study(patient.root).annotations.connect() as answers:
                answers.execute(f"PRAGMA user_version={min(newer, 2**31 - 1)}")
            answers.close()
            reader = rng.choice(("status", "report", "export", "select", "responses"))
        patient.read("a newer version's study", f"{seed}", reader)
    patient.verdict.report(campaign)
    assert patient.verdict.refused.total() == patient.verdict.inputs.total()
    said = patient.verdict.messages["a newer version's study"]
    assert all("written by a newer thriftune" in message and "upgrade" in message for message in said), said


def test_parquet_of_a_study(patient, times, campaign):
    """Every table with columns of other types or missing, rows gone, doubled or moved, values missing."""
    files = patient.files("*.parquet")
    for seed in range(times(30, 800)):
        rng = random.Random(f"parquet{seed}")
        file = rng.choice(files)
        table = read_table(patient.root / file)
        if rng.random() < 0.3:
            changed = with_record(table, {})
            record = json.dumps(spoiled.other_tree(rng, read_record(patient.root / file)))
            metadata = {b"thriftune": record.encode("utf-8", "surrogatepass")}
            changed = table.replace_schema_metadata(metadata if rng.random() < 0.95 else None)
        else:
            changed = tables.other_table(rng, table)
        try:
            pq.write_table(changed, patient.root / file)
        except Exception:  # Parquet has no such type
            patient.heal()
            continue
        patient.read("tables of a study", f"{seed} {file}", rng.choice(READERS))
    patient.verdict.report(campaign)


def test_corrupted_parts(patient, times, campaign, tmp_path):
    """A changed byte is found and named, or it says nothing: the rows are the same."""
    files = [f for f in patient.files("*.parquet") if "cells" not in f.parts] + patient.files("*.npy")
    unnoticed = 0
    for seed in range(times(40, 500)):
        rng = random.Random(f"part{seed}")
        file = rng.choice(files)
        data = bytearray((patient.root / file).read_bytes())
        spoilt = spoiled.truncated(rng, data) if rng.random() < 0.2 else data
        if spoilt is data:
            at = rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
        (patient.root / file).write_bytes(spoilt)

        def same(result: Any, file: Path = file) -> None:
            nonlocal unnoticed
            if not result.equals(read_table(patient.pristine / file)):
                unnoticed += 1

        if file.suffix == ".npy":
            patient.read("corrupted parts", f"{seed} {file}", "select")
        else:
            patient.verdict("corrupted parts", f"{seed} {file}", lambda f=file: read_table(patient.root / f), same)
            patient.verdict("corrupted parts", f"{seed} {file} record", lambda f=file: read_record(patient.root / f))
            patient.heal()
    campaign["unnoticed"] = unnoticed
    patient.verdict.report(campaign)
    for message in patient.verdict.messages["corrupted parts"]:
        assert "~" in message  # the file
    assert unnoticed <= 0.02 * patient.verdict.inputs.total()


def test_embeddings_with_nan(patient, times, campaign):
    """NaN and infinity in vectors or their scale, other shapes, other types, archives and pickles."""
    file = Path("scores/default/embeddings.npy")
    for seed in range(times(15, 400)):
        rng = random.Random(f"nan{seed}")
        array = np.load(patient.root / file)
        kind = rng.randrange(6)
        if kind < 3:
            for _ in range(rng.choice((1, 3, 500))):
                array[rng.randrange(len(array)), rng.randrange(array.shape[1])] = rng.choice((np.nan, np.inf, -np.inf))
        elif kind == 3:
            array = rng.choice((array[:5], array[:, :0], array.ravel(), array[None], array.T, array[:0], array[0]))
        elif kind == 4:
            array = array.astype(rng.choice((np.int8, np.float64, np.complex64, bool, object, "S3", "U2")))
        path = patient.root / file
        if kind == 5:
            np.savez(path.with_suffix(".npz"), array)
            path.with_suffix(".npz").replace(path)
        else:
            np.save(path, array, allow_pickle=True)
        patient.read("NaN and infinite embeddings", seed, rng.choice(("select", "select", "report")))
    patient.verdict.report(campaign)


def test_answers_of_a_study(patient, times, campaign):
    """The database with bytes changed, tables gone, values of other types."""
    file = patient.root / "annotations.sqlite"
    for seed in range(times(15, 400)):
        rng = random.Random(f"sqlite{seed}")
        if rng.random() < 0.5:
            data = file.read_bytes()
            at = rng.randrange(len(data) // 4)
            spoilt = rng.choice((b"", data[:at], data[:at] + rng.randbytes(40) + data[at + 40 :], rng.randbytes(900)))
            file.write_bytes(spoilt)
        else:
            with Study(patient.root).annotations.connect() as answers:
                answers.execute(
                    rng.choice(
                        (
                            "DROP TABLE annotations",
                            "UPDATE annotations SET response = x'ff00fe'",
                            "UPDATE annotations SET response = CAST(x'fffe' AS TEXT)",
                            "UPDATE annotations SET prompt_id = 'gone' WHERE id = 2",
                            "UPDATE annotations SET seconds = 'long'",
                            "UPDATE annotations SET annotator = 5, prompt_id = 7 WHERE id = 1",
                            "ALTER TABLE annotations RENAME COLUMN seconds TO second",
                        )
                    )
                )
            answers.close()
        # A restored database has no companions.
        reader = rng.choice(("status", "report", "export", "select", "responses"))
        patient.read("answers of a study", seed, reader)
    patient.verdict.report(campaign)
