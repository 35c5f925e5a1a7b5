# make demo | test | thorough | coverage | versions | lowest | extras | lint | docs | dist | clean
#
# Everything is installed into $(VENV), once: a stamp file there notes each set of extras, and a later run installs
# again only if pyproject.toml or constraints.txt has changed. Needs GNU make and Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

TOO_OLD := emphasis needs Python 3.11 or newer, and "$(PYTHON)" is not; try: make PYTHON=python3.12
NO_VENV := "$(PYTHON) -m venv $(VENV)" failed; on Debian and Ubuntu install the package python3-venv

ALONE ?= xgboost lightgbm jax sklearn
VERSIONS ?= 3.12 3.13
NOTEBOOKS ?= cache

# What constraints.txt names, but the package of an extra does not take yet: of these, pip chooses the version.
FREE_mlflow := importlib_metadata
FREE_trackio := pillow

# Hundreds of processes of the tests import the same modules, which are compiled once if that may be kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test thorough coverage versions lowest extras lint docs dist clean

help:
	@echo "make demo   train on digits with 40 % wrong labels and compare the losses"
	@echo "make test   run the tests"
	@echo "make thorough run the tests with ten times as many random examples, and a long sweep of killed processes"
	@echo "make coverage run the tests and measure how much of each package they reach: about twice the time"
	@echo "make versions run the tests on other versions of Python (VERSIONS=3.13 for another list than $(VERSIONS))"
	@echo "make lowest run the tests with the oldest versions of the packages that are allowed"
	@echo "make extras install extras one by one, each into an environment of its own, and use them"
	@echo "            (ALONE=catboost for another than $(ALONE))"
	@echo "make lint   check format, style, types, the direction of imports and spelling"
	@echo "make docs   build the documentation into docs/_build/html (NOTEBOOKS=off for its notebooks without output)"
	@echo "make dist   build wheel and sdist into dist/ and check them as a user will meet them; nothing is published"
	@echo "make clean  remove what was built, the environment $(VENV) excepted"

demo: $(VENV)/.installed-experiments
	$(BIN)/emphasis run digits

# One thread per worker: the workers already share the cores.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

thorough: $(VENV)/.installed-test
	HYPOTHESIS_PROFILE=thorough OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill_sweep.py --out build/kill_sweep.json

coverage: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal --cov=emphasis --cov-report=
	$(BIN)/python tests/coverage_floors.py

# Other versions of Python, and the oldest versions of the packages that pyproject.toml allows, each in an environment of
# its own. uv finds interpreters on the PATH and installs others; a path in VERSIONS works as well.
versions: $(VERSIONS:%=tested-on-%)

tested-on-%: $(VENV)/.installed-uv
	$(BIN)/uv venv --quiet --clear --python $* $(VENV)-python
	$(BIN)/uv pip install --quiet --python $(VENV)-python -e '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-python/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lowest: $(VENV)/.installed-uv
	$(BIN)/uv venv --quiet --clear --python 3.11 $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct -e '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal

$(VENV)/.installed-uv: | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.7'
	@touch $@

extras: $(ALONE:%=$(VENV)-%/.checked)

$(VENV)-%/.checked: pyproject.toml constraints.txt tests/extra_alone.py $(wildcard src/emphasis/*.py src/emphasis/*/*.py)
	@$(PYTHON) -m venv $(@D)
	grep -v '^$(or $(FREE_$*),nothing)==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt '.[$*]'
	PYTHONPATH=tests $(@D)/bin/python -W error -P tests/extra_alone.py $*
	@touch $@

lint: $(VENV)/.installed-lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell *.md .github packaging src tests docs examples benchmarks

# The tests run the code of the notebooks too: NOTEBOOKS=off leaves it to them, and the pages show no output.
docs: $(VENV)/.installed-docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going --quiet -b html -D nb_execution_mode=$(NOTEBOOKS) \
	  docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# The version is read from the last tag, so dist/ holds a release only at a tag.
dist: $(VENV)/.installed-release,test
	rm -rf dist
	EMPHASIS_BUILD_KERNELS=1 $(BIN)/python -m build
	set -e; for wheel in dist/*-linux_*.whl; do \
	  if test -f "$$wheel"; then PATH="$(abspath $(BIN)):$$PATH" auditwheel repair -w dist "$$wheel"; rm "$$wheel"; fi; done
	$(BIN)/twine check --strict dist/*
	$(BIN)/python packaging/check_dist.py dist build/release-venv build/release

clean:
	rm -rf build dist docs/_build docs/_generated .coverage .coverage.* .pytest_cache .hypothesis
	rm -rf .mypy_cache .ruff_cache .import_linter_cache
	find src tests docs examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo '$(TOO_OLD)' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo '$(NO_VENV)' >&2; exit 1; }
