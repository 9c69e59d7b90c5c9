from __future__ import annotations

from pathlib import Path

import pytest

from thriftune.config import FinetuneConfig, InitConfig, ScoreConfig, SelectConfig, resolve
from thriftune.errors import ConfigError


def test_flags_over_toml_over_defaults(tmp_path: Path) -> None:
    toml = tmp_path / "t.toml"
    toml.write_text('[score]\nmodel = "m"\nbatch_size = 4\n[select]\nbudget = 7\n')
    got = resolve(ScoreConfig, "score", {"batch_size": 8, "dtype": None}, toml)
    assert (got.model, got.batch_size, got.dtype, got.max_new_tokens) == ("m", 8, "auto", 32)
    assert resolve(SelectConfig, "select", {}, toml).budget == "7"


def test_all_errors_in_one_message(tmp_path: Path) -> None:
    toml = tmp_path / "t.toml"
    toml.write_text('[score]\nbatchsize = 4\nmax_new_tokens = -1\nlayer = "x"\n')
    with pytest.raises(ConfigError) as caught:
        resolve(ScoreConfig, "score", {"pooling": "sum"}, toml)
    message = str(caught.value)
    assert "unknown setting 'batchsize' in [score]" in message
    assert "max_new_tokens=-1: " in message
    assert "layer='x': 'x' is neither 'last' nor layers separated by commas" in message
    assert "pooling='sum': " in message
    assert "\n" not in message


def test_a_parameter_typed_leaves_the_others_of_the_file(tmp_path: Path) -> None:
    toml = tmp_path / "t.toml"
    toml.write_text('[select]\nbudget = 5\n[select.params]\ngamma = 2.0\nkernel = "cosine"\n')
    found = resolve(SelectConfig, "select", {"params": {"kernel": "rbf", "device": "cpu"}}, toml)
    assert found.params == {"gamma": 2.0, "kernel": "rbf", "device": "cpu"}


@pytest.mark.parametrize("budget", ["x", "-5", "10 %", "5e3", "", "%"])
def test_impossible_budgets(budget: str) -> None:
    with pytest.raises(ConfigError, match="budget"):
        resolve(SelectConfig, "select", {"budget": budget})


def test_a_missing_setting_names_its_flag() -> None:
    with pytest.raises(ConfigError, match="budget is missing: give --budget"):
        resolve(SelectConfig, "select", {})


@pytest.mark.parametrize("content", [b"[score\n", b"\xff", None])
def test_unreadable_toml_is_named(tmp_path: Path, content: bytes | None) -> None:
    toml = tmp_path / "t.toml"
    if content is not None:
        toml.write_bytes(content)
    with pytest.raises(ConfigError, match=r"t\.toml: "):
        resolve(InitConfig, "init", {}, toml)


@pytest.mark.parametrize("layer", ["last", "12", "12,24", "-1", "last,3", "60%", "25%, 100%"])
def test_layers(layer: str) -> None:
    assert ScoreConfig(layer=layer).layer == layer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[init]\na = " + "[" * 50_000, "nested too deeply: mend the file"),
        ("init = 5\n", r"init is '5', no table: write \[init\]"),
        ("[init]\nsed = 1\n", "unknown setting 'sed' in .init.: did you mean seed"),
        ("[init]\nseed = 4294967296\n", "should be less than 4294967296"),  # torch and NumPy take no more
        ("sed = 1\n", r"a\.toml: unknown key 'sed': leave it out .settings stand below .*: \[init\]"),
        ("[scor]\nlayer = '12'\n", "unknown key 'scor': did you mean score?"),
        ("[init]\npool = ['a.jsonl']\n", "'pool' is no setting of .init.: give it on the command line"),
        ("[init\n", r"at line 1, column 6\): mend the file"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve(InitConfig, "init", {}, tmp_path / "a.toml")


def test_no_setting_is_infinite(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[finetune]\nalpha = inf\n")
    with pytest.raises(ConfigError, match="alpha=inf: Input should be a finite number"):
        resolve(FinetuneConfig, "finetune", {}, tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b"\xef\xbb\xbf[init]\nholdout = 3\n")  # as Windows' editor saves it
    assert resolve(InitConfig, "init", {}, tmp_path / "b.toml").holdout == 3
