"""The study: a directory on disk through which the stages meet. docs/artifacts.md lists every file and column."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune import columns as stored_columns
from thriftune import meta
from thriftune.annotations import AnnotationStore
from thriftune.artifacts import provenance, read_json, read_record, read_table, reading, write_json, write_table
from thriftune.errors import ConfigError, StudyError
from thriftune.locks import hold
from thriftune.types import Candidates, FloatArray, Prompt, Selection

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
HOLDOUT = "holdout"
POOL = "pool"  # both are parts of a study, and as a selection's name all of that part's prompts
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}\Z")

SCORE_COLUMNS = stored_columns.RANKING


def check_name(name: str, what: str) -> str:
    """``name`` if it can be a file name anywhere, else a StudyError that says what it may hold."""
    if not _NAME.match(name):
        raise StudyError(f"{what} {name!r} is not usable as a file name: use letters, digits, '.', '_', '+', '-'")
    return name


def _age(file: Path) -> tuple[str, int, str]:
    """Oldest first, by when an artifact was made: copying a study changes the times of its files."""
    created = ""
    with contextlib.suppress(StudyError):  # a damaged file is listed, and named when it is read
        created = str(read_record(file).get("created", ""))
    return created, file.stat().st_mtime_ns, str(file)


def _named(manifests: Iterable[Path]) -> list[str]:
    """Names of the directories of JSON ``manifests``, oldest first by when they were made."""
    made = []
    for file in manifests:
        created = ""
        with contextlib.suppress(StudyError, AttributeError):
            created = str(read_json(file).get("created", ""))
        made.append((created, file.stat().st_mtime_ns, file.parent.name))
    return [name for *_, name in sorted(made)]


class Study:
    """An existing study directory; `Study.create` makes one.

    Args:
        path: the directory.

    Raises:
        StudyError: there is no study there, or a newer thriftune wrote it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = self.path / "study.json"
        if not manifest.exists():
            raise StudyError(f"{self.path} is not a study: make one with: thriftune init {self.quoted} --pool FILE")
        written = read_json(manifest)
        version = written.get("format") if isinstance(written, dict) else None
        if not isinstance(version, int) or version < 1:
            raise StudyError(f"{manifest} is damaged (no format number): restore it from a copy")
        if version > FORMAT:
            raise StudyError(f"{self.path} was written by a newer thriftune (format {version}): upgrade thriftune")
        self.record: dict[str, Any] = written

    @classmethod
    def create(cls, path: str | Path, record: dict[str, Any]) -> Study:
        """Mark ``path`` as a study; called last, when its pool is complete.

        Args:
            path: the directory.
            record: what made it (JSON values), kept in study.json.

        Returns:
            The study.
        """
        write_json(Path(path) / "study.json", {"format": FORMAT, **provenance(**record)})
        return cls(path)

    @property
    def quoted(self) -> str:
        """The directory as one word of a shell command."""
        return shlex.quote(str(self.path))

    # --- places -----------------------------------------------------------------------------------------------------

    @property
    def pool_file(self) -> Path:
        return self.path / "pool.parquet"

    @property
    def references_file(self) -> Path:
        """Known responses for experiments; scoring and selection never open it."""
        return self.path / "references.parquet"

    @property
    def rejects_file(self) -> Path:
        return self.path / "rejects.jsonl"

    @property
    def annotations(self) -> AnnotationStore:
        return AnnotationStore(self.path / "annotations.sqlite")

    def score_directory(self, run: str) -> Path:
        return self.path / "scores" / check_name(run, "score run")

    def selection_file(self, name: str) -> Path:
        return self.path / "selections" / f"{check_name(name, 'selection')}.parquet"

    def model_directory(self, name: str) -> Path:
        """A fine-tuned model: ``manifest.json``, ``log.parquet``, ``adapter/`` or ``model/``."""
        return self.path / "models" / check_name(name, "model")

    def evaluation_file(self, name: str) -> Path:
        return self.path / "evaluations" / f"{check_name(name, 'evaluation')}.parquet"

    def bench_directory(self, name: str) -> Path:
        return self.path / "bench" / check_name(name, "bench")

    def lock(self, stage: str, *, wait: float = 0) -> contextlib.AbstractContextManager[None]:
        """Hold ``stage`` of this study against other processes; see `thriftune.locks.hold`."""
        return hold(self.path, check_name(stage, "stage"), wait=wait)

    # --- pool -------------------------------------------------------------------------------------------------------

    def pool(self, columns: list[str] | None = None, *, split: str | None = "pool") -> pa.Table:
        """Rows of the pool in file order.

        Args:
            columns: which; None for all (see docs/artifacts.md).
            split: ``"pool"``, ``"holdout"`` or None for both.

        Returns:
            The table.
        """
        import pyarrow.compute as pc

        wanted = None if columns is None else list(dict.fromkeys([*columns, "split"]))
        table = read_table(self.pool_file, wanted, types=stored_columns.POOL)
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        return table if columns is None else table.select(columns)

    def references(self) -> dict[str, str]:
        """Known responses by prompt id; empty when the pool came without, or with answers already paid for."""
        if not self.references_file.exists():
            return {}
        table = read_table(self.references_file, ["id", "response"], types=stored_columns.REFERENCES)
        return dict(zip(table["id"].to_pylist(), table["response"].to_pylist(), strict=True))

    def prompts(self, ids: list[str]) -> list[Prompt]:
        """The prompts with these ids, in that order, from the pool and the hold-out.

        Raises:
            StudyError: an id is not in the study.
        """
        table = self.pool(["id", "text", "task", "messages", "meta"], split=None)
        rows = {id_: row for row, id_ in enumerate(table["id"].to_pylist())}
        absent = [i for i in ids if i not in rows]
        if absent:
            raise StudyError(f"{len(absent)} prompts are not in {self.path}, the first: {absent[0]!r}")
        found = table.take(np.array([rows[i] for i in ids], np.int64)).to_pylist()
        with reading(self.pool_file):
            return [
                Prompt(
                    r["id"],
                    r["text"],
                    r["task"],
                    None if r["messages"] is None else tuple(r["messages"]),
                    dict(json.loads(r["meta"])) if r["meta"] else {},
                )
                for r in found
            ]

    def responses(self, kinds: str) -> dict[str, str]:
        """Responses by prompt id, for training and evaluation.

        Args:
            kinds: of ``human`` (people's final answers, and those that came with the pool), ``teacher`` (a model's)
                and ``reference`` (known responses of an experiment), separated by commas; the first named wins.

        Raises:
            ConfigError: an unknown kind.
        """
        sources = {"human": ("human", "imported"), "teacher": ("teacher",)}
        merged: dict[str, str] = {}
        for kind in (k.strip() for k in kinds.split(",")):
            if kind == "reference":
                found = self.references()
            elif kind in sources:
                answers = self.annotations.in_force()
                found = {a.prompt_id: a.response for a in answers if a.status == "final" and a.source in sources[kind]}
            else:
                raise ConfigError(f"annotations {kind!r} are not known: give human, teacher or reference")
            merged = {**found, **merged}
        return merged

    # --- scores -----------------------------------------------------------------------------------------------------

    def score_runs(self) -> list[str]:
        """Names of the finished score runs, the latest last."""
        found = [p for p in (self.path / "scores").glob("*/scores.parquet") if not p.parent.name.startswith(".")]
        return [p.parent.name for p in sorted(found, key=_age)]

    def score_run(self, run: str | None = None) -> str:
        """``run`` if it is finished, the latest run if None.

        Raises:
            StudyError: there is none, or not this one.
        """
        runs = self.score_runs()
        if run is None:
            if not runs:
                raise StudyError(f"{self.path} has no scores yet: run: thriftune score {self.quoted}")
            return runs[-1]
        if run not in runs:
            known = ", ".join(runs) or "none"
            raise StudyError(f"no finished score run {run!r} in {self.path} (there: {known})")
        return run

    def scores(self, run: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """The table of a finished score run, rows in pool order."""
        file = self.score_directory(self.score_run(run)) / "scores.parquet"
        return read_table(file, columns, types=stored_columns.SCORES)

    def score_columns(self, run: str) -> list[str]:
        """Which of the ranking columns a finished score run has."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        there = set(SCORE_COLUMNS)
        with contextlib.suppress(pa.ArrowInvalid, OSError):  # whoever reads the table says what is wrong with it
            there &= set(pq.read_schema(self.score_directory(run) / "scores.parquet").names)
        return [column for column in SCORE_COLUMNS if column in there]

    def stored_embeddings(self, run: str | None = None) -> tuple[FloatArray, FloatArray]:
        """Embeddings of a finished score run as they lie on disk, rows in pool order.

        They are stored as float16 of each vector over its largest magnitude, which middle layers need: their
        activations overflow float16.

        Returns:
            (n, d) float16, memory-mapped, and (n,) float32 to multiply each row by.
        """
        name = self.score_run(run)
        file = self.score_directory(name) / "embeddings.npy"
        scale = self.scores(name, ["embedding_scale"])["embedding_scale"].to_numpy()
        checksum = read_record(file.with_name("scores.parquet")).get("embeddings_crc32")
        return stored_columns.open_embeddings(file, len(scale), checksum), scale

    def embeddings(self, run: str | None = None) -> FloatArray:
        """(n, d) float32 embeddings of a finished score run, rows in pool order."""
        stored, scale = self.stored_embeddings(run)
        full = np.empty(stored.shape, np.float32)
        for start in range(0, len(full), 65536):
            block = slice(start, start + 65536)
            np.multiply(stored[block], scale[block, None], out=full[block], casting="same_kind")
        return full

    # --- models, evaluations, experiments ---------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names of the finished fine-tuned models, the latest last."""
        return _named((self.path / "models").glob("[!.]*/manifest.json"))

    def evaluations(self) -> list[str]:
        """Names of the evaluations, the latest last."""
        found = (self.path / "evaluations").glob("[!.]*.parquet")
        # Answers and judgements lie beside the evaluations they belong to.
        return [p.stem for p in sorted(found, key=_age) if not p.stem.endswith((".answers", ".judgements"))]

    def benches(self) -> list[str]:
        """Names of the experiments that have a plan, the latest last."""
        return _named((self.path / "bench").glob("[!.]*/plan.json"))

    # --- selections -------------------------------------------------------------------------------------------------

    def candidates(self, run: str | None = None, *, embeddings: bool = True, score: str | None = None) -> Candidates:
        """The pool as selection sees it: scores and embeddings of one run, answered prompts marked.

        Args:
            run: a finished score run, the latest if None; without any run only ids, tasks and lengths are there.
            embeddings: False to leave them on disk.
            score: where the run has none of that name, a column of the pool file that stands for it.

        Returns:
            Candidates with rows in pool order.
        """
        table = self.pool(["id", "task", "group", "n_chars"])
        ids = np.array(table["id"].to_pylist(), dtype=object)
        tasks = table["task"].to_pylist()
        answered = self.annotations.answered()
        common: dict[str, Any] = {
            "ids": ids,
            "annotated": np.fromiter((i in answered for i in ids), bool, len(ids)),
            "tasks": None if all(t is None for t in tasks) else np.array([t or "" for t in tasks], dtype=object),
            "groups": table["group"].to_numpy(),
        }
        # The names of a run's columns are a run's alone.
        own = {} if score is None or score in SCORE_COLUMNS else meta.numbers(self.pool(["meta"])["meta"], score)
        if run is None and not self.score_runs():
            return Candidates(lengths=table["n_chars"].to_numpy(), scores=own, **common)
        name = self.score_run(run)
        scores = self.scores(name, ["id", "n_prompt_tokens", *self.score_columns(name)])
        if scores["id"].to_pylist() != ids.tolist():
            raise StudyError(f"score run {name!r} belongs to another pool: rerun: thriftune score {self.quoted}")
        vectors = embeddings and (self.score_directory(name) / "embeddings.npy").exists()
        return Candidates(
            embeddings=self.embeddings(name) if vectors else None,
            scores={c: scores[c].to_numpy() for c in scores.column_names[2:]} | own,
            lengths=scores["n_prompt_tokens"].to_numpy(),
            **common,
        )

    def selections(self) -> list[str]:
        """Names of the selections, oldest first."""
        found = (self.path / "selections").glob("[!.]*.parquet")
        return [p.stem for p in sorted(found, key=_age)]

    def write_selection(self, name: str, selection: Selection, record: dict[str, Any]) -> Path:
        """Store a selection with the record of what made it.

        Args:
            name: its name in the study.
            selection: the picks.
            record: run, summary and whatever else describes it (JSON values).

        Returns:
            The file written.
        """
        import pyarrow as pa

        gains = None if selection.gains is None else np.asarray(selection.gains, np.float64)
        table = pa.table(
            {
                "rank": pa.array(range(1, len(selection) + 1), pa.int64()),
                "id": pa.array(selection.ids.tolist(), pa.string()),
                "gain": pa.nulls(len(selection), pa.float64()) if gains is None else pa.array(gains),
            }
        )
        described = {
            "strategy": selection.strategy,
            "budget": selection.budget,
            "seed": selection.seed,
            "params": dict(selection.params),
            "certificate": None if selection.certificate is None else dict(selection.certificate),
            "notes": dict(selection.notes),
            "partial": selection.partial,
        }
        file = self.selection_file(name)
        write_table(file, table, provenance(**described, **record))
        return file

    def selection(self, name: str) -> tuple[list[str], FloatArray | None, dict[str, Any]]:
        """A stored selection.

        Args:
            name: its name; ``"pool"`` is every prompt to choose from and ``"holdout"`` the set aside for evaluation,
                in pool order.

        Returns:
            Prompt ids in pick order, gains (k,) or None, and the record of what made it.
        """
        file = self.selection_file(name)
        if name == HOLDOUT or (name == POOL and not file.exists()):  # one could once be stored under that name
            return self.pool(["id"], split=name)["id"].to_pylist(), None, {"strategy": name}
        if not file.exists():
            known = ", ".join(self.selections()) or "none"
            raise StudyError(f"no selection {name!r} in {self.path} (there: {known})")
        table = read_table(file, list(stored_columns.SELECTION), types=stored_columns.SELECTION)
        gains = table["gain"]
        values = None if gains.null_count == len(gains) else gains.to_numpy()
        return table["id"].to_pylist(), values, read_record(file)
