from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from thriftune import errors


def test_one_tree() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == errors.__name__ and not issubclass(kind, Warning)
    ]
    assert len(kinds) > 5
    assert all(issubclass(kind, errors.ThriftuneError) for kind in kinds)


def test_a_missing_package_names_command_and_install_line() -> None:
    with pytest.raises(errors.MissingDependency) as caught:
        errors.require("no_such_package.part", command="thriftune demo", install="'thriftune[demo]'")
    assert (
        str(caught.value)
        == "thriftune demo needs no_such_package.part, which is not installed: pip install 'thriftune[demo]'"
    )


def test_a_package_that_is_there_is_imported() -> None:
    assert errors.require("json", command="x", install="x").dumps([1]) == "[1]"


def test_a_package_that_fails_inside_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_inside.py").write_text("import no_such_thing_either\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_either"):
        errors.require("broken_inside", command="x", install="broken_inside")


def test_a_message_never_holds_control_characters() -> None:
    error = errors.ThriftuneError("column 'a\x1b[2J\nb' of \ud800: rename it\u00a0%")
    assert str(error) == "column 'a\\x1b[2J\\nb' of \\ud800: rename it\u00a0%"
    str(error).encode()
