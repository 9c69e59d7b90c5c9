from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import thriftune
from thriftune.study import Study

README = Path(__file__).parents[2] / "README.md"


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thriftune.cli.main", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)  # type: ignore[call-overload, no-any-return]


def verbs() -> list[str]:
    from thriftune.cli.app import app

    return [str(command.name) for command in [*app.registered_commands, *app.registered_groups]]


def test_verbs_in_the_order_of_the_flow() -> None:
    listed = run("--help").stdout.split("Commands:")[1]
    assert [line.split()[0] for line in listed.strip().splitlines()] == verbs()


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_explains_itself(verb: str) -> None:
    done = run(verb, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    described = done.stdout.strip().split("\n\n", 1)[1].strip()  # after the usage
    assert len(described.splitlines()[0]) > 20  # a sentence, not the list of options


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert re.search(rf"thriftune {verb}\b", README.read_text(encoding="utf-8"))


def test_version() -> None:
    assert run("--version").stdout == f"thriftune {thriftune.__version__}\n"


@pytest.mark.parametrize("verb", ["score", "select", "report", "status"])
def test_an_error_is_one_line_and_exit_2(tmp_path: Path, verb: str) -> None:
    options = ["--budget", "3"] if verb == "select" else []
    done = run(verb, tmp_path / "nowhere", *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"thriftune: [^\n]*is not a study: make one with: thriftune init [^\n]*\n", done.stderr)


def test_a_flag_that_does_not_exist_is_exit_2_without_traceback() -> None:
    done = run("status", "x", "--no-such-flag")
    assert done.returncode == 2
    assert "--no-such-flag" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_shows_its_traceback() -> None:
    code = (
        "from thriftune.cli import app, main\n"
        "@app.app.command()\ndef burst() -> None:\n    raise ZeroDivisionError('a bug')\n"
        "import sys; sys.argv = ['thriftune', 'burst']; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError: a bug" in done.stderr


def test_a_full_disk_is_one_line_and_exit_2() -> None:
    code = (
        "import os\nfrom thriftune.cli import app, main\n"
        "@app.app.command()\ndef write() -> None:\n"
        "    with open('/dev/full', 'w', buffering=1) as handle:\n        handle.write('x\\n')\n"
        "import sys; sys.argv = ['thriftune', 'write']; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"thriftune: No space left on device: see that there is room [^\n]*continues\n", done.stderr)


def test_a_file_in_the_place_of_a_folder_is_one_line_and_exit_2(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\nfrom thriftune.cli import app, main\n"
        "@app.app.command()\ndef write() -> None:\n    pathlib.Path(sys.argv[2]).mkdir()\n"
        "sys.argv = ['thriftune', 'write']; main.main()"
    )
    for name in ("there", "there/below", "x" * 300):
        (tmp_path / "there").touch()
        program = code.replace("sys.argv[2]", repr(str(tmp_path / name)))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert re.fullmatch(r"thriftune: [^\n]+: give another path or name\n", done.stderr)


def test_ctrl_c_before_a_command_is_at_work_is_exit_130() -> None:
    code = "from thriftune.cli import app, main\ndef stop():\n    raise KeyboardInterrupt\napp.app = stop; main.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and "the same command continues" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_the_command_line_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    child = subprocess.Popen(
        [sys.executable, "-m", "thriftune.cli.main", "status", "x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert re.fullmatch(r"\nthriftune: stopped; [^\n]+ continues\n", errors)


@pytest.mark.parametrize("made_of_it", ["RuntimeError('in __set_name__')", "ImportError('in an extension')"])
def test_ctrl_c_in_the_guise_of_an_import_error_is_exit_130(made_of_it: str) -> None:
    code = (
        "from thriftune.cli import app, main\n"
        f"def stop():\n    raise {made_of_it} from KeyboardInterrupt()\napp.app = stop; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert re.fullmatch(r"\nthriftune: stopped; [^\n]+ continues\n", done.stderr)


def test_ctrl_c_is_exit_130() -> None:
    code = (
        "import sys, time\nfrom thriftune.cli import app, main\n"
        "@app.app.command()\ndef hang() -> None:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.argv = ['thriftune', 'hang']; main.main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "stopped; what was finished is kept, the same command continues" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("arguments", ["export STUDY - --to jsonl", "status STUDY", "strategies", "--help"])
def test_a_reader_that_leaves_is_no_error(small_study: Study, arguments: str) -> None:
    given = [str(small_study.path) if word == "STUDY" else word for word in arguments.split()]
    command = [sys.executable, "-m", "thriftune.cli.main", *given]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    errors = child.stderr.read()
    child.stderr.close()
    child.wait()
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_commands_that_are_printed_survive_the_shell(tmp_path: Path) -> None:
    pool, study, answers = tmp_path / "pool.jsonl", tmp_path / "my dir" / "st udy", tmp_path / "an swers.csv"
    pool.write_text("".join(f'{{"id": "p{i}", "prompt": "What is {i} plus {i}?"}}\n' for i in range(6)))

    def suggested(text: str) -> list[str]:
        return shlex.split(re.split(r"\bthriftune (?=[a-z])", text)[-1])

    done = run("init", study, "--pool", pool)
    assert suggested(done.stdout) == ["score", str(study)]
    done = run("export", study, answers)
    assert suggested(done.stderr)[:2] == ["select", str(study)]
    done = run("select", study, "--strategy", "random", "--budget", "3", "--name", "mine")
    assert suggested(done.stdout)[:2] == ["export", str(study)]
    done = run("export", study, answers)
    assert suggested(done.stderr) == ["import", str(study), str(answers)]
    for response in ("one", "other"):
        answers.write_text(f"id,response\np0,{response}\n")
        done = run("import", study, answers)
    assert suggested(done.stderr) == ["import", str(study), str(study / "import-conflicts.jsonl"), "--replace"]
    done = run("select", study, "--strategy", "k_center", "--budget", "3")
    assert suggested(done.stderr)[:2] == ["score", str(study)]


def test_export_and_import_from_the_shell(small_study: Study, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    done = run("export", small_study.path, file)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"10 prompts of first (0 answered) to {file} as csv" in done.stderr
    assert f"thriftune import {small_study.path} {file}" in done.stderr

    (tmp_path / "one.jsonl").write_text('{"id": "p00", "response": "one"}\n{"id": "p01", "response": "two"}\n')
    done = run("import", small_study.path, tmp_path / "one.jsonl", "--annotator", "ann")
    assert done.returncode == 0
    assert done.stdout.startswith("imported 2 answers: 2 new\n")

    lines = "".join(f'{{"id": "p{i:02d}", "response": "other"}}\n' for i in range(3))
    (tmp_path / "two.jsonl").write_text(lines)
    done = run("import", small_study.path, tmp_path / "two.jsonl")
    assert done.returncode == 2
    assert "imported 1 answer: 1 new; 2 in conflict and left out" in done.stdout
    assert f"{tmp_path / 'two.jsonl'}:1: p00: 'other' but in force is 'one'" in done.stdout
    assert done.stderr.startswith("thriftune: 2 answers differ from those in force, which were kept")
    kept = (small_study.path / "import-conflicts.jsonl").read_text()
    assert [line.split('"')[3] for line in kept.splitlines()] == ["p00", "p01"]
    done = run("import", small_study.path, small_study.path / "import-conflicts.jsonl", "--replace")
    assert done.returncode == 0
    assert "2 replaced, the old ones kept as history" in done.stdout
    assert f"{small_study.path / 'import-conflicts.jsonl'} is removed" in done.stdout
    assert not (small_study.path / "import-conflicts.jsonl").exists()
    assert len(small_study.annotations.in_force()) == 3

    (tmp_path / "spoilt.jsonl").write_text(
        '{"id": "5.85353E+15", "prompt": "-5", "response": "five"}\n{"id": "p06", "prompt": "?", "response": "six"}\n'
    )
    done = run("import", small_study.path, tmp_path / "spoilt.jsonl")
    assert done.stdout.startswith("imported 2 answers: 2 new; 1 of unknown id matched by the prompt's text\n")
    assert "spoilt.jsonl are not the study's text: p06; their answers were taken by id: look at" in done.stderr

    done = run("export", small_study.path, "-", "--to", "messages", "--answered-only")
    assert done.stdout.count('"assistant"') == 5
