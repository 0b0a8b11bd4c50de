.PHONY: check lint types quick test

# What to run before each commit: about a minute on two cores.
check: lint types quick

lint:
	ruff check .
	ruff format --check .

types:
	mypy

quick:
	pytest -n 2 -m "not slow" -q

test:
	pytest -n 2
