# The first of these that is there and runs (a version manager may have a name without a program behind it).
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, ssl, venv' >/dev/null 2>&1 && echo $$python && break; done)
BIN := .venv/bin

.PHONY: simulate test check docs pictures constraints sbom clean

simulate: .venv/.ready
	$(BIN)/mmmed simulate --config configs/demo.toml

test: .venv/.ready
	FLWR_TELEMETRY_ENABLED=0 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation's site, in build/site; links are checked, and a warning is an error.
docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The pictures of the documentation (needs Chromium).
pictures: .venv/.ready
	$(BIN)/python -m docs.make.pictures

# constraints.txt from pyproject.toml, for all Pythons and systems at once: pins stay where they fit.
# `make constraints UPGRADE=--upgrade` takes the newest of everything.
constraints: .venv/.ready
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-annotate --quiet \
		--custom-compile-command "make constraints" $(UPGRADE) -o constraints.txt

# What is installed in .venv, as a bill of materials (CycloneDX) and a table of licences.
sbom: .venv/.ready
	mkdir -p build
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment --pyproject pyproject.toml \
		--output-reproducible --output-file build/sbom.cdx.json .venv/bin/python
	$(BIN)/uv tool run pip-licenses==5.5.5 --python .venv/bin/python --from mixed --format csv --with-urls \
		--output-file build/licences.csv

# One environment for using, testing and checking, from pinned versions.
.venv/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mmmed needs Python 3.13, 3.12 or 3.11 with its venv module, and none of them runs here." \
		"Install one (Debian, Ubuntu: apt install python3-venv; macOS: brew install python@3.13; or from python.org)," \
		"or name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,ingest,pretrained,export,serve,reports,ray]'
	touch $@

clean:
	rm -rf .venv .venv-smoke runs
