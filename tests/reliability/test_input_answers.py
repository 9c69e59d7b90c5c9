"""Bad answer files, payloads of Label Studio and responses of model servers: refused by line, or taken as they are."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import spoiled
from verdict import Verdict

from thriftune.annotation import label_studio
from thriftune.annotation.formats import FORMATS, Row, write_rows
from thriftune.annotation.ingest import ingest
from thriftune.annotation.parse import Answer, parse
from thriftune.endpoint.completion import listed_models, message_of, read_completion, retry_after
from thriftune.evaluation.judge_prompt import read_verdict
from thriftune.study import Study

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Another."}]


class Importer:
    """Imports bytes into fresh copies of a study."""

    def __init__(self, study: Study, place: Path) -> None:
        self.pristine, self.input = study.path, place / "in"
        self.input.mkdir()
        self.root = place / "work" / "study"
        self.verdict = Verdict([self.root])
        self.heal()

    def heal(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root)

    def check(self, done: Any) -> None:
        kept = Study(self.root).annotations.in_force()
        assert len(kept) == done.new + done.replaced
        known = set(Study(self.root).pool(["id"], split=None)["id"].to_pylist())
        assert all(a.prompt_id in known and a.response.strip() and a.response.encode() for a in kept)

    def __call__(self, category: str, label: Any, data: bytes, rng: random.Random) -> bool:
        file = self.input / "answers"
        file.write_bytes(data)
        options = {"skip_bad": rng.random() < 0.4, "replace": rng.random() < 0.2}
        accepted = self.verdict(category, label, lambda: ingest(Study(self.root), file, **options), self.check)
        if accepted:
            self.heal()
        return accepted


@pytest.fixture
def importer(small_study: Study, tmp_path: Path) -> Importer:
    return Importer(small_study, tmp_path)


def answered(rng: random.Random, to: str) -> bytes:
    """Good answers in a format."""
    rows = [
        Row(
            f"p{i:02d}", i + 1, f"Question {i}", TURNS if i == 8 else None, None, "draft", f"answer {i}, ü\nsecond line"
        )
        for i in range(12)
    ]
    import io

    out = io.StringIO(newline="")
    write_rows(out, rows, to, array=rng.random() < 0.3)  # type: ignore[arg-type]
    return out.getvalue().encode()


@pytest.mark.parametrize("category", spoiled.BYTES)
def test_spoiled_answers(category, importer, times, campaign):
    for seed in range(times(10, 320)):
        rng = random.Random(f"{category}{seed}")
        data = spoiled.BYTES[category](rng, answered(rng, rng.choice(FORMATS)))
        importer(f"answers: {category}", seed, data, rng)
    importer.verdict.report(campaign)


@pytest.mark.parametrize("to", FORMATS)
def test_other_values(to, importer, times, campaign):
    """Every format with values of other types, ids that are odd or come twice, keys left out."""
    for seed in range(times(8, 150)):
        rng = random.Random(f"{to}{seed}")
        data = answered(rng, to)
        if to == "csv":
            lines = data.decode().split("\r\n")
            at = rng.randrange(len(lines))
            lines[at] = rng.choice(
                (lines[1], lines[at][: len(lines[at]) // 2], f'"a/b\n{seed}",1,,,d,r', "p00", ",,,,,")
            )
            data = "\r\n".join(lines).encode()
        else:
            text = data.decode()
            array = text.lstrip().startswith("[")
            rows = json.loads(text) if array else [json.loads(line) for line in text.splitlines()]
            row = rng.choice(rows)
            if rng.random() < 0.4:
                identifier = rng.choice((*spoiled.ODD_IDS, "p00", "p00"))
                (row["data"] if to == "label-studio" else row)["thriftune_id" if to == "label-studio" else "id"] = (
                    identifier
                )
            else:
                rows[rows.index(row)] = spoiled.other_tree(rng, row)
            data = (json.dumps(rows) if array else "".join(json.dumps(r) + "\n" for r in rows)).encode()
        importer(f"answers: values of {to}", seed, data, rng)
    importer.verdict.report(campaign)


def test_a_refusal_names_file_and_line(small_study, tmp_path, campaign):
    importer = Importer(small_study, tmp_path)
    rng = random.Random(0)
    rng.random = lambda: 0.9  # type: ignore[method-assign]
    for label, data in (
        ("broken", b'{"id": "p00", "response": "x"}\n{"id": "p01", \n'),
        ("half", b'{"id": "p00", "response": "x"}\n{"id": "p01", "response": "a\\ud800b"}\n'),
        ("twice", b'id,response\r\np00,"a\nb"\r\np00,c\r\n'),
        ("cells", b"id,response\np00,a\np01,b,c\n"),
    ):
        importer("file and line", label, data, rng)
    importer.verdict.report(campaign)
    assert importer.verdict.refused.total() == 4
    assert all(":" in message and "Mend the file" in message for message in importer.verdict.messages["file and line"])


def test_label_studio_payloads(importer, times, campaign, monkeypatch):
    """What its server may send: tasks, people and annotations of any shape."""
    good = {
        "id": 5,
        "data": {"thriftune_id": "p01", "prompt": "Question 1"},
        "annotations": [
            {
                "id": 9,
                "completed_by": 3,
                "lead_time": 4.5,
                "was_cancelled": False,
                "result": [{"from_name": "response", "type": "textarea", "value": {"text": ["an answer"]}}],
            }
        ],
    }
    for seed in range(times(40, 800)):
        rng = random.Random(f"studio{seed}")
        tasks = [spoiled.other_tree(rng, good) for _ in range(rng.choice((1, 2)))]
        tasks = [t if isinstance(t, dict) else {} for t in tasks]
        people = [SimpleNamespace(id=rng.choice((3, None, "3")), email=rng.choice(("a@b", None, "", 5)))]
        server = SimpleNamespace(
            projects=SimpleNamespace(
                get=lambda _, rng=rng: SimpleNamespace(task_number=rng.choice((1, 0, None))),
                list=lambda **_: [SimpleNamespace(id=1, title="x")],
            ),
            users=SimpleNamespace(list=lambda people=people: people),
            tasks=SimpleNamespace(
                list=lambda tasks=tasks, **_: [
                    SimpleNamespace(id=t.get("id"), data=t.get("data"), annotations=t.get("annotations")) for t in tasks
                ]
            ),
        )
        monkeypatch.setattr(label_studio, "_server", lambda _, server=server: _Open(server))
        accepted = importer.verdict(
            "Label Studio payloads",
            seed,
            lambda: label_studio.pull(Study(importer.root), "http://127.0.0.1:1", "1"),
            importer.check,
        )
        if accepted:
            importer.heal()
    importer.verdict.report(campaign)


class _Open:
    def __init__(self, server: Any) -> None:
        self.server = server

    def __enter__(self) -> Any:
        return self.server

    def __exit__(self, *_: object) -> None:
        return None


GOOD = {
    "id": "c",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


def test_responses_of_model_servers(times, campaign):
    """Completions, lists of models, errors and waiting times: a text or a ValueError in a line, nothing else."""
    verdict = Verdict()

    def read(body: bytes) -> None:
        try:
            good, said = True, ""
            completion = read_completion(body, "secret-key-1234")
        except ValueError as error:
            said = str(error)
            good = said.isprintable() and len(said) < 400 and "secret-key-1234" not in said
            completion = None
        if completion is None:
            assert good, said
        else:
            assert isinstance(completion.text, str) and completion.text.encode() is not None
            assert completion.tokens is None or min(completion.tokens.prompt, completion.tokens.completion) >= 0
            assert isinstance(completion.finish, str) and isinstance(completion.cut, bool)
            assert read_verdict(completion.text, cut=completion.cut)
        message = message_of(body, "secret-key-1234")
        assert message.isprintable() and 0 < len(message) < 400 and "secret-key-1234" not in message
        assert all(isinstance(name, str) and name.isprintable() for name in listed_models(body))
        waited = retry_after({"retry-after": body[:30].decode("latin-1")})
        assert waited is None or 0 <= waited < float("inf")

    for seed in range(times(300, 3000)):
        rng = random.Random(f"teacher{seed}")
        tree = rng.choice((GOOD, {"error": {"message": "no secret-key-1234"}}, {"data": [{"id": "m"}]}))
        body = json.dumps(spoiled.other_tree(rng, tree)).encode()
        if rng.random() < 0.4:
            body = spoiled.BYTES[rng.choice(list(spoiled.BYTES))](rng, body)
        verdict("responses of model servers", seed, lambda body=body: read(body))
    verdict.report(campaign)


def test_every_parser_is_total(times, campaign):
    """Bytes that look like one format and are another: rows and reasons only, with lines that exist."""
    verdict = Verdict()
    for seed in range(times(100, 1000)):
        rng = random.Random(f"parser{seed}")
        data = b"".join(spoiled.mutated(rng, answered(rng, rng.choice(FORMATS))) for _ in range(rng.choice((1, 2))))

        def read(data: bytes = data) -> None:
            lines = data.count(b"\n") + 2
            for row in parse(Path("answers"), data):
                assert 1 <= row.line <= lines
                assert not isinstance(row, Answer) or (row.id and isinstance(row.response, str))

        verdict("answers: any bytes", seed, read)
    verdict.report(campaign)
