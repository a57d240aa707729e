# make run     start the gateway: needs python3 (3.11 or newer), makes everything else
# make test    ruff, mypy, import-linter, pytest;  PYTEST_ARGS="-k window" for some of it
# make bench   measure;  BENCH_ARGS=--help for what can be chosen
# make docs    write docs/configuration.md anew
# make lock    write the lock files anew (needs uv)

PYTHON := .venv/bin/python
PYTEST_ARGS ?= -n 2 --dist worksteal --cov
LOCK := uv pip compile pyproject.toml --quiet --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --custom-compile-command "make lock"

.PHONY: run test bench docs lock
.DEFAULT_GOAL := run

run:
	@sh .ci/venv.sh requirements.lock
	@exec .venv/bin/bot-gateway serve $(ARGS)

test:
	@sh .ci/venv.sh requirements-dev.lock
	@sh .ci/packages.sh
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --strict gateway
	.venv/bin/lint-imports --no-logo
	$(PYTHON) -m pytest $(PYTEST_ARGS)

bench:
	@sh .ci/venv.sh requirements-dev.lock
	@sh .ci/packages.sh
	$(PYTHON) -m bench $(BENCH_ARGS)

docs:
	@sh .ci/venv.sh requirements.lock
	$(PYTHON) -c "from gateway.config import reference_markdown as r; print(r(), end='')" > docs/configuration.md

lock:
	uv pip compile --group build --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
		--custom-compile-command "make lock" --output-file requirements-build.lock
	$(LOCK) --output-file requirements.lock
	$(LOCK) --group dev --extra bench --extra webpush --extra apprise --constraint requirements.lock --output-file requirements-dev.lock
