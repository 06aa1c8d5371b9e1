# One command a habit. Use an environment with: pip install -c constraints.txt -e ".[dev]"
.PHONY: check test coverage long fuzz wheel wheelhouse lock docs ci full format

check:
	ruff check
	ruff format --check
	mypy
	PYTHONPATH=export:cli:neighbours lint-imports

test:
	python -m pytest

# lines and branches that the tests run, commands in processes of their own included
coverage:
	coverage erase
	coverage run -m pytest
	coverage combine --quiet
	coverage report

# the tests marked full, and those under tests/full
long:
	python -m pytest -m full

# twenty thousand hostile bundles
fuzz:
	PYTHONPATH=.:export:cli:neighbours python -m tests.hostile.fuzz.campaign --examples 20000 --out recipes/results/fuzz.json

format:
	ruff check --fix
	ruff format

# of the last commit, the same bytes each time
wheel:
	python airgap/wheel_of_commit.py dist

# what a site without a network carries in: EXTRA=gpu or gpu-cuda12, PLATFORM=aarch64, PYTHON_VERSION=3.12
wheelhouse:
	python airgap/wheelhouse.py wheelhouse $(if $(EXTRA),--extra $(EXTRA)) $(if $(PLATFORM),--platform $(PLATFORM)) $(if $(PYTHON_VERSION),--python $(PYTHON_VERSION))

# after a change of the site's dependencies in pyproject.toml or constraints.txt
lock:
	python airgap/lock.py

# the searchable site in site/; a broken link fails. Use an environment with: pip install -c constraints.txt ".[train,docs]"
docs:
	PYTHONPATH=.:export:cli:neighbours python docs/pages.py
	zensical build --strict --clean

ci:
	.ci/run

full:
	.ci/full
