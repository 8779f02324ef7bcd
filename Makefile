PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check bench notebook clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + " (make PYTHON=python3.11 …)" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,analysis]'
	touch $@

demo: install  ## the main job on embedded data: a grid of wake/sleep schedules, about four minutes on two cores
	$(BIN)/python launch.py --space grid

test: install  ## the whole quick test suite
	$(BIN)/python -m pytest -n auto -m 'not slow'

check: install  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## every claim of speed and memory, side by side; writes the table of docs/performance.md
	$(BIN)/python -m benchmarks

notebook: install  ## runs analysis/study.ipynb on the newest study; plots go to results/plots/
	$(BIN)/jupyter execute analysis/study.ipynb

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
