# `make demo` and `make test` install what they need into .venv; each further target uses that environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export RAY_USAGE_STATS_ENABLED := 0
export RAY_DATA_DISABLE_PROGRESS_BARS := 1

.PHONY: demo test test-faults check format bench wheel clean install

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)  ## the main job on the embedded default; the report is runs/quickstart/report/index.html
	$(BIN)/python jobs/curate_and_train.py

# In two processes, a file in one of them; the files in order, which begins with the longest.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
  --durations 25 --durations-min 20

test: $(STAMP)  ## every test but those of `make test-faults`
	$(PYTEST) -m "not fault"

test-faults: $(STAMP)  ## what is killed, lost, filled up or damaged on purpose
	$(PYTEST) -m fault

check: $(STAMP)  ## style, types, the order of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## ratios, each measured in one run; writes benchmarks/results.json
	$(BIN)/python benchmarks/run.py

wheel: $(STAMP)  ## dist/raysem-<version>-py3-none-any.whl, which cluster/ installs; the one before goes, two would be ambiguous
	rm -rf build dist/raysem-*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist runs *.egg-info
