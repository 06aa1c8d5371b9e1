# One command a habit. Use an environment with: pip install -c constraints.txt -e ".[dev]"
.PHONY: check test slow wheel ci full format

check:
	ruff check
	ruff format --check
	mypy
	PYTHONPATH=export:cli lint-imports

test:
	python -m pytest

slow:
	python -m pytest -m slow

format:
	ruff check --fix
	ruff format

# from a clean build folder: setuptools would pack what an older build left there
wheel:
	rm -rf build
	python -m pip wheel --no-deps --wheel-dir dist .

ci:
	.ci/run

full:
	.ci/full
