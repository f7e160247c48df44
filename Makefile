# Two commands do everything on a fresh machine, set-up included: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint pytest clean

demo: $(VENV)/installed
	$(BIN)/tributary-opt demo

test: $(VENV)/installed
	$(MAKE) --no-print-directory --jobs 2 lint pytest

pytest: $(VENV)/installed
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %s: make PYTHON=..." % sys.version.split()[0])'
	@echo "making the environment $(VENV), once: a minute or three"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[embedded,dask,test]'
# Compiled on all cores, where pip takes one; what does not compile (templates, other Pythons) nobody imports.
	$(BIN)/python -m compileall -qq --workers 0 $(VENV)/lib || true
	touch $@

clean:
	rm -rf $(VENV) demo-data .pytest_cache .ruff_cache .mypy_cache
