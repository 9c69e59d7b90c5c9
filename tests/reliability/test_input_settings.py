"""Bad TOML and settings of impossible values: all that is wrong in a sentence, or settings that keep their promise."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import spoiled
from verdict import Verdict

from thriftune.bench import recipe
from thriftune.config import (
    AnnotateConfig,
    BenchConfig,
    EvaluateConfig,
    FinetuneConfig,
    InitConfig,
    JudgeConfig,
    ScoreConfig,
    SelectConfig,
    TeachConfig,
    resolve,
)

SECTIONS: dict[str, Any] = {
    "init": InitConfig,
    "score": ScoreConfig,
    "select": SelectConfig,
    "annotate": AnnotateConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "bench": BenchConfig,
    "teach": TeachConfig,
    "judge": JudgeConfig,
}
VALUES = (
    *(
        "0",
        "-1",
        "1",
        "0.5",
        "1e400",
        "inf",
        "-inf",
        "nan",
        "true",
        "false",
        '""',
        '"x"',
        '"auto"',
        "'12,24'",
        "[]",
        "[1, 2]",
    ),
    *(
        '["random"]',
        "{}",
        "{a = 1}",
        "{task = 5}",
        "2026-01-01",
        "07:32:00",
        "99999999999999999999",
        '"10%"',
        '"\\u0000"',
    ),
    *('"\\u2028"', '"none"', '"../x"', "[[]]", '"cpu"', '"http://h"', "0x10", "1_000", '"""a\nb"""', "[" * 3 + "]" * 3),
)


def document(rng: random.Random) -> str:
    """A file with some tables, whose settings have values that settings may have elsewhere."""
    text = ""
    if rng.random() < 0.7:
        text += rng.choice(
            ('study = "s"\n', "study = 5\n", 'pool = ["a", 1]\n', 'study = "s"\npool = "p.jsonl"\n', "x = 1\n")
        )
    for section in rng.sample(list(SECTIONS), rng.randrange(1, 4)):
        if rng.random() < 0.05:
            text = f"{section} = {rng.choice(VALUES)}\n" + text
            continue
        text += f"[{section}]\n"
        names = list(SECTIONS[section].model_fields)
        for name in rng.sample(names, min(len(names), rng.randrange(4))):
            text += f"{name if rng.random() < 0.9 else name + 'x'} = {rng.choice(VALUES)}\n"
    return text


def finite(config: Any) -> None:
    """No setting is NaN or infinite, and every seed fits every generator."""
    for name, value in config.model_dump().items():
        assert not isinstance(value, float) or math.isfinite(value), name
        assert not name.endswith("seed") or 0 <= value < 2**32, name


def test_settings(tmp_path: Path, times, campaign):
    verdict = Verdict([tmp_path / "work"])
    (tmp_path / "work").mkdir()
    file = tmp_path / "run.toml"
    for seed in range(times(150, 1500)):
        rng = random.Random(f"toml{seed}")
        data = document(rng).encode()
        if rng.random() < 0.3:
            data = spoiled.BYTES[rng.choice(list(spoiled.BYTES))](rng, data)
        if rng.random() < 0.03:
            data = b"[init]\na = " + rng.choice((b"[" * 50_000, b"{a=" * 50_000, b"1" * 10_000))
        file.write_bytes(data)
        for section in rng.sample(list(SECTIONS), 2):
            flags = {"seed": rng.choice((None, 3))} if "seed" in SECTIONS[section].model_fields else {}
            if section in ("teach", "judge"):
                flags |= {"endpoint": "http://127.0.0.1:1", "model": "m"}
            verdict(
                "settings",
                f"{seed} {section}",
                lambda s=section, flags=flags: resolve(SECTIONS[s], s, flags, file),
                finite,
            )
        verdict("settings", f"{seed} recipe", lambda: recipe.read(file))
    verdict("settings", "missing", lambda: recipe.read(tmp_path / "missing.toml"))
    verdict("settings", "directory", lambda: resolve(InitConfig, "init", {}, tmp_path))
    verdict("settings", "NUL", lambda: resolve(InitConfig, "init", {}, tmp_path / "a\x00b"))
    verdict.report(campaign)
