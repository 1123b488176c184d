# The first of these that is there and runs (a version manager may have a name without a program behind it).
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, ssl, venv' >/dev/null 2>&1 && echo $$python && break; done)
BIN := .venv/bin

.PHONY: simulate test check clean

simulate: .venv/.ready
	$(BIN)/mmmed simulate --config configs/demo.toml

test: .venv/.ready
	FLWR_TELEMETRY_ENABLED=0 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One environment for using, testing and checking, from pinned versions.
.venv/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mmmed needs Python 3.13, 3.12 or 3.11 with its venv module, and none of them runs here." \
		"Install one (Debian, Ubuntu: apt install python3-venv; macOS: brew install python@3.13; or from python.org)," \
		"or name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ingest,pretrained,export,serve,reports,ray]'
	touch $@

clean:
	rm -rf .venv .venv-smoke runs
