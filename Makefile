# `make` lists the commands. Nothing here needs an installed package: `.venv` is made from requirements.lock.
PYTHON ?= python3
NAMES ?=
BIN := .venv/bin

# Why .venv cannot be used as it is (empty if it can).
STALE := $(shell [ -d .venv ] || exit 0; \
  $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || echo "its Python does not run"; \
  [ ! -f .venv/.done ] || [ "$$(cat .venv/.done)" = "$$(pwd -P)" ] || echo "this folder was moved or copied")
ifneq ($(origin PYTHON),file)
STALE += $(shell [ -d .venv ] || exit 0; V='import sys; print("%d.%d" % sys.version_info[:2])'; \
  OLD=$$($(BIN)/python -c "$$V" 2>/dev/null); NEW=$$($(PYTHON) -c "$$V" 2>/dev/null); \
  [ "$$OLD" = "$$NEW" ] || echo "it has Python $$OLD, PYTHON is $$NEW")
endif
STALE := $(strip $(STALE))

# Strict notebook tests compare stored outputs: one thread, fixed hashes, no network, this environment's kernel.
TEST_ENV := env -u MPLBACKEND -u RLBOOK_STRICT RLBOOK_MODE=fast RLBOOK_PROGRESS=0 \
  OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONHASHSEED=0 \
  HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 JUPYTER_PREFER_ENV_PATH=1

.PHONY: help setup book test bench lab refresh clean

help:
	@echo "make setup    make .venv with the exact versions of requirements.lock (needs the network once)"
	@echo "make book     run every notebook in order, write build/book/, print a table (NAMES='01a 02': only those)"
	@echo "make test     run everything that CI runs: style, unit tests, notebooks against their stored outputs"
	@echo "make bench    compare speed and learning and record the curves that notebooks show, about 1.5 hours, write data/runs/ (BENCH='--seeds 2')"
	@echo "make lab      open the book in JupyterLab"
	@echo "make refresh  run the notebooks again and store their outputs in place (NAMES='01a': only that one)"
	@echo "make clean    remove .venv, build/ and caches"
	@echo "book, test, lab and refresh run setup first if it is needed. Another Python: make setup PYTHON=python3.12"

setup: .venv/.done
	@echo "Ready: .venv ($$($(BIN)/python -V))."

ifneq ($(STALE),)
.PHONY: .venv/.done
endif
.venv/.done: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "rlbook needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make setup PYTHON=python3.12"; \
	  exit 1; }
	@if [ -n "$(STALE)" ]; then echo "Making .venv anew: $(STALE)."; fi
	@if [ -n "$(STALE)" ] || [ ! -d .venv ]; then $(PYTHON) -m venv --clear .venv; fi
	@rm -f .venv/.done
	@echo "Installing the versions of requirements.lock into .venv. The first time this takes minutes and 2 GB or more."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@pwd -P > .venv/.done

book: .venv/.done
	@$(BIN)/rlbook run $(NAMES) --out build/book

test: .venv/.done
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(TEST_ENV) $(BIN)/python -m pytest -q --nbval --nbval-current-env --nbval-cell-timeout=120 tests notebooks

bench: .venv/.done
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps stable-baselines3==2.9.2 sb3-contrib==2.9.2
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/policy_optimisation.py $(BENCH)
	$(BIN)/python benchmarks/methods_on_text.py $(BENCH)
	$(BIN)/python benchmarks/mixed_policy.py $(BENCH)
	$(BIN)/python benchmarks/language_models.py $(BENCH)

lab: .venv/.done
	$(BIN)/python -m jupyterlab notebooks/00_start_here.ipynb

refresh: .venv/.done
	@$(BIN)/rlbook refresh $(NAMES)

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
