PYTHON ?= python3.11
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
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ingest,pretrained,ray,vision]'
	touch $@

clean:
	rm -rf .venv runs
