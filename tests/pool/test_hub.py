"""Hugging Face datasets, served from local files through the real `datasets` package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thriftune.errors import MissingDependency, PoolError
from thriftune.pool import hub
from thriftune.pool.build import init

datasets = pytest.importorskip("datasets")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A dataset owner/chats with splits test and train; what was asked for is in the dictionary returned."""
    files = {}
    for split, n in (("test", 2), ("train", 150)):
        rows = [{"conversations": [{"from": "human", "value": f"{split} {i}"}]} for i in range(n)]
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    asked: dict[str, Any] = {}
    real = datasets.load_dataset

    def load(name: str, config: str | None, **options: Any) -> Any:
        asked.update(name=name, config=config, **options)
        if name != "owner/chats":
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub.\nmore")
        return real("json", data_files=files, streaming=options["streaming"], cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "_revision", lambda name: "abc123")
    return asked


def test_the_train_split_is_streamed(tmp_path: Path, served: dict[str, Any]) -> None:
    summary = init(tmp_path / "study", ["owner/chats"])
    assert (summary.prompts, summary.sources[0].understood.split(" (")[0]) == (150, "ShareGPT turns")
    assert served == {"name": "owner/chats", "config": None, "revision": "abc123", "streaming": True}
    source = summary.study.record["sources"][0]
    assert (source["name"], source["split"], source["revision"]) == ("owner/chats", "train", "abc123")
    pool = summary.study.pool(["source", "line", "text"]).to_pylist()
    assert pool[149] == {"source": "owner/chats", "line": 150, "text": "train 149"}


def test_configuration_and_split(tmp_path: Path, served: dict[str, Any]) -> None:
    assert init(tmp_path / "study", ["owner/chats:short@test"]).prompts == 2
    assert served["config"] == "short"


def test_what_the_hub_does_not_have(tmp_path: Path, served: dict[str, Any]) -> None:
    with pytest.raises(PoolError, match=r"no split 'dev' \(there: test, train\)"):
        init(tmp_path / "study", ["owner/chats@dev"])
    with pytest.raises(
        PoolError, match=r"neither a file here nor readable from the hub \(Dataset 'owner/nothing' does"
    ):
        init(tmp_path / "study", ["owner/nothing"])
    assert not (tmp_path / "study").exists()


def test_a_stream_that_breaks(tmp_path: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        yield {"prompt": "a"}
        raise ConnectionError("connection reset")

    opened = hub.HubDataset(broken(), "train", None, None)
    monkeypatch.setattr(hub, "open_dataset", lambda source: opened)
    with pytest.raises(PoolError, match="connection reset"):
        init(tmp_path / "study", ["owner/chats"])


def test_without_the_datasets_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingDependency, match=r"--pool owner/chats needs datasets.*pip install 'thriftune\[hub\]'"):
        init(tmp_path / "study", ["owner/chats"])


@pytest.mark.parametrize("source", ["owner/name", "owner/name:config", "a-b/c.d_e@test", "o/n:c@train[:10%]"])
def test_ids(source: str) -> None:
    assert hub.looks_like_id(source)


@pytest.mark.parametrize("source", ["name", "a/b/c", "./a/b", "../a", "/a/b", "~/a", "a/", "owner/name:", "a b/c"])
def test_no_ids(source: str) -> None:
    assert not hub.looks_like_id(source)
