# On a machine that has only make and a python3 from 3.11 to 3.13, every target sets up what it
# needs. Kept to what GNU make 3.81 understands: that is the one macOS ships.
.DEFAULT_GOAL := help
.PHONY: help demo test bench emulators engines lint format template lock clean

VENV := .venv
BIN := $(VENV)/bin
# Written last, so that a half-finished installation never counts as done.
INSTALLED := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished
BENCH_INSTALLED := $(VENV)/.installed-bench
# Of its own, because its requirements do not go together with ours.
EMULATOR := .venv-bigquery-emulator
EMULATOR_INSTALLED := $(EMULATOR)/.installed
# Flink and Spark with Beam's job servers for them: jars, which Maven fetches.
ENGINES := .engines
ENGINES_INSTALLED := $(ENGINES)/flink/.installed $(ENGINES)/spark/.installed

# Each process of the tests takes some 2 GB; WORKERS=0 is none beside pytest itself, for --pdb.
WORKERS ?= 2

# PYTHON=python3.12 chooses the interpreter that makes .venv; otherwise the first that fits.
PYTHON ?=
SUPPORTED := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Embed real photographs with an untrained model, and show neighbours
	@$(BIN)/python -m pipeline.demo --folder demo

test: $(INSTALLED) ## Run the tests; ARGS="-k resize" goes to pytest
	@$(MAKE) --silent emulators 2>/dev/null || echo "There is no BigQuery emulator, so the tests" \
		"of tables are skipped; \`make emulators\` says why."
	@$(MAKE) --silent engines 2>/dev/null || echo "There is no Flink and no Spark, so the tests" \
		"of engines are skipped; \`make engines\` says why."
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

bench: $(BENCH_INSTALLED) ## Measure, beside other engines; ARGS="--quick --only limit" chooses
	@$(BIN)/python benchmarks/bench.py $(ARGS)

emulators: $(EMULATOR_INSTALLED) ## Install the BigQuery emulator, for the tests

engines: $(ENGINES_INSTALLED) ## Fetch Flink and Spark with Maven, for the tests and docs/engines.md

lint: $(INSTALLED) ## Check format, style, types and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/shellcheck --external-sources deploy/*.sh

format: $(INSTALLED) ## Put the code in its one format, and repair what ruff can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

template: $(INSTALLED) ## Write deploy/metadata.json again, after a change of flags or keys
	$(BIN)/python -m pipeline.template > deploy/metadata.json

lock: $(INSTALLED) ## Resolve requirements.lock again, after a change of pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras \
		--no-emit-index-url --no-emit-find-links --no-annotate \
		--custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## Remove all that make and the tools made, .venv and demo too
	rm -rf $(VENV) $(EMULATOR) $(ENGINES) demo benchmarks/results build dist *.egg-info .mypy_cache .ruff_cache \
		.pytest_cache .import_linter_cache
	find pipeline transforms tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml requirements.lock setup.py
	@set -e; \
	rm -f $(INSTALLED); \
	python=; \
	if [ -e $(UNFINISHED) ] || ! $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null; then \
		for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
			if $$candidate -c '$(SUPPORTED)' 2>/dev/null; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "No Python from 3.11 to 3.13 with venv and pip found among:" \
				"$(or $(PYTHON),python3 python3.13 python3.12 python3.11);" \
				"install one (on Debian python3-venv too), or name it with" \
				"PYTHON=/path/to/python." >&2; \
			exit 1; \
		fi; \
		rm -rf $(VENV); mkdir -p $(VENV); touch $(UNFINISHED); \
		$$python -m venv $(VENV); \
	fi; \
	touch $(UNFINISHED); \
	echo "Installing the locked requirements into $(VENV)" \
		"with $$($(BIN)/python --version): about two minutes the first time."; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c requirements.lock -e '.[dev]'; \
	rm -f $(UNFINISHED); \
	touch $(INSTALLED)

$(BENCH_INSTALLED): $(INSTALLED)
	@echo "Installing the engine that is measured beside ours."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c requirements.lock -e '.[bench]'
	@touch $(BENCH_INSTALLED)

# The extensions of DuckDB, without which the emulator would download them at its start.
$(EMULATOR_INSTALLED): tests/support/bigquery_emulator.txt | $(INSTALLED)
	@set -e; \
	echo "Installing the BigQuery emulator into $(EMULATOR): about a minute."; \
	rm -rf $(EMULATOR); \
	$(BIN)/python -m venv $(EMULATOR); \
	$(EMULATOR)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r tests/support/bigquery_emulator.txt; \
	HOME="$(CURDIR)/$(EMULATOR)" $(EMULATOR)/bin/python -c "import duckdb_extensions as d; \
		d.import_extension('spatial'); d.import_extension('avro')"; \
	touch $(EMULATOR_INSTALLED)

$(ENGINES)/%/.installed: tests/support/job_servers/%/pom.xml
	@set -e; \
	if ! command -v mvn >/dev/null; then \
		echo "Maven fetches the jars of Flink and Spark, and there is no mvn here; install Maven" \
			"and Java 17." >&2; \
		exit 1; \
	fi; \
	echo "Fetching the jars of $* into $(ENGINES)/$*: about a minute."; \
	rm -rf $(ENGINES)/$*; \
	mvn --batch-mode --quiet -Dstyle.color=never -f $< dependency:copy-dependencies \
		-DoutputDirectory="$(CURDIR)/$(ENGINES)/$*"; \
	touch $@
