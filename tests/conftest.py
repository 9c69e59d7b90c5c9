"""What several test folders share: a model small enough to run in milliseconds, and a study made of plain arrays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from thriftune.artifacts import provenance, write_table
from thriftune.study import Study
from thriftune.types import Selection

# A busy machine is slow now and then; that is no failure of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_TEXTS = (
    "The cat sat on the mat. What is twelve plus seven? Sort these words: pear, apple, fig.",
    "Write a function that returns the sum of a list of numbers, and explain each step.",
    "Übersetze den Satz: Straßenbahn fährt früh. 日本語の文を英語に訳してください。 Émile aime le café.",
    "system user assistant You are a helpful AI assistant. Answer: yes, no, maybe 0123456789 ()[]{}+-*/=<>",
)

# The template of SmolLM2-Instruct: a default system turn, then <|im_start|>role ... <|im_end|>.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random two-layer Llama (float32) and a byte-level BPE tokenizer with a chat template.

    Its greedy answers differ from prompt to prompt and some end within 32 steps, so that the paths of a real model
    are walked; context 512 tokens.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=_CHAT_TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        # Without this a random model hardly ever stops.
        model.lm_head.weight[tokenizer.eos_token_id] *= 2
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


# Prompts that break careless file formats, before plain ones.
AWKWARD = (
    '=HYPERLINK("http://x.example","click")',
    "- one\n- two",
    'She said "hi", then\r\nleft; twice',
    "Straße 日本語 🧵 \u2028 next",
    "'quoted' start",
    "-5",
    "  spaces around  ",
    "+1-2",
)


@pytest.fixture
def small_study(tmp_path: Path) -> Study:
    """A study of 16 prompts (the last 4 held out), a score run "default" and a selection "first" of 10 of them.

    Built from the documented columns rather than by the stages, so that one stage's tests do not need another's code.
    """
    n, held = 16, 4
    texts = [*AWKWARD, *(f"Question number {i}: what is {i} plus {i}?" for i in range(n - len(AWKWARD)))]
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "Another."},
    ]
    texts[8] = "Be brief.\n\nName a colour.\n\nRed.\n\nAnother."
    root = tmp_path / "study"
    root.mkdir()
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    pool = pa.table(
        {
            "id": [f"p{i:02d}" for i in range(n)],
            "text": texts,
            "messages": pa.array([turns if i == 8 else None for i in range(n)], pa.list_(message)),
            "task": ["odd" if i % 2 else "even" for i in range(n)],
            "split": ["pool"] * (n - held) + ["holdout"] * held,
            "group": pa.array(range(n), pa.int64()),
            "near_group": pa.array(range(n), pa.int64()),
            "n_chars": pa.array([len(t) for t in texts], pa.int32()),
            "source": ["made.jsonl"] * n,
            "line": pa.array(range(1, n + 1), pa.int64()),
            "meta": pa.nulls(n, pa.string()),
        }
    )
    write_table(root / "pool.parquet", pool, provenance())
    study = Study.create(root, {})
    m = n - held
    scores = {
        "id": pool["id"][:m],
        "mean_entropy": pa.array(np.linspace(2, 1, m), pa.float32()),
        "mean_nll": pa.array(np.linspace(1, 0, m), pa.float32()),
        "n_prompt_tokens": pa.array([10] * m, pa.int32()),
        "response": [f"Draft {i}\nsecond line" for i in range(m)],
        "embedding_scale": pa.array([1.0] * m, pa.float32()),
    }
    directory = root / "scores" / "default"
    write_table(directory / "scores.parquet", pa.table(scores), provenance(model="tiny"))
    np.save(directory / "embeddings.npy", np.random.default_rng(0).normal(size=(m, 8)).astype(np.float16))
    rows = np.array([3, 0, 8, 2, 1, 5, 4, 6, 7, 9])
    ids = np.array(pool["id"].to_pylist(), dtype=object)[rows]
    study.write_selection("first", Selection(ids, rows, None, "random", 10, 0), {"run": "default"})
    return study


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of this machine whose workers find the tests' files, and use as many threads as the tests do."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'thriftune[ray]'")
    import torch

    tests = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patched:
        for folder in ("scoring", "selection", "bench"):
            patched.setenv("PYTHONPATH", str(tests / folder), prepend=os.pathsep)
        patched.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for _ in range(5):
            with contextlib.suppress(Exception):  # a busy machine does not start it in the time that Ray allows
                ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            if ray.is_initialized():
                break
        yield
        ray.shutdown()
