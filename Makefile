# Everything a person or a CI machine calls. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := $(VENV)/bin/python
# Without compiling: a fraction of the 14,000 files is ever imported, and Python compiles those when it first reads them.
PIP_INSTALL := $(PYTHON) -m pip install --disable-pip-version-check --no-input --no-compile
# Newest first after the system's own python3.
PYTHON_CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11
# Extra arguments of pytest, as in: make test ARGS="tests/engine -x"
ARGS ?=
# Tests run side by side, a file at a time since modules share servers, browser tests last (tests/conftest.py). Four more
# than there are cores: many of them wait for a server.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 4)))
PARALLEL ?= --numprocesses $(WORKERS) --maxprocesses 6 --dist loadfile --no-loadscope-reorder

# Python keeps what it compiles, also where the shell says otherwise: tests start some hundred servers and commands, and
# each would compile the whole project again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test check audit lock clean system-packages

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp ## Install what is missing, prepare the database, and serve the studio
	@$(PYTHON) manage.py migrate --verbosity 0
	@exec $(PYTHON) manage.py serve

test: system-packages $(VENV)/dev.stamp ## Run all tests; STRICT=1 turns skips into failures
	@$(PYTHON) -m pytest $(PARALLEL) $(ARGS)

check: $(VENV)/dev.stamp ## Lint, format, types, templates, migrations and documentation
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	git ls-files -coz --exclude-standard '*.html' | xargs -0r $(VENV)/bin/djade --check --target-version 5.2
	home=$$(mktemp -d); trap 'rm -rf "$$home"' EXIT; export MUSICGEN_HOME=$$home; \
	$(PYTHON) manage.py check --fail-level WARNING; \
	$(PYTHON) manage.py makemigrations --check --dry-run
	$(PYTHON) -m pytest -q tests/site/test_docs.py
	$(PYTHON) .ci/audit.py --brief

audit: $(VENV)/dev.stamp ## Look up all locked packages in the OSV database of known vulnerabilities
	@$(PYTHON) .ci/audit.py

lock: $(PYTHON) ## Write requirements.lock and requirements-dev.lock anew from pyproject.toml
	@$(PYTHON) .ci/lock.py

clean: ## Remove the environment and caches; the studio's own files in var/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis test-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PYTHON):
	@for candidate in $(PYTHON_CANDIDATES); do \
	  "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  if ! "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then \
	    without_venv="$$candidate"; continue; \
	  fi; \
	  echo "Making $(VENV) with $$("$$candidate" --version)."; \
	  exec "$$candidate" -m venv $(VENV); \
	done; \
	if [ -n "$${without_venv:-}" ]; then \
	  echo "$$without_venv comes without its venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	else \
	  echo "Python 3.11 or newer is needed, and none of these is: $(PYTHON_CANDIDATES)." >&2; \
	fi; \
	exit 1

$(VENV)/run.stamp: requirements.lock | $(PYTHON)
	@echo "Installing the studio's packages into $(VENV). The first time this takes some minutes."
	@$(PIP_INSTALL) -r requirements.lock
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock | $(PYTHON)
	@echo "Installing the packages for development into $(VENV). The first time this takes some minutes."
	@$(PIP_INSTALL) -r requirements-dev.lock
	@touch $@

# What the tests start beside Python: installed where that is possible without a question, else tests skip. Of Chromium
# the part without windows is preferred where the system packs it alone: a page costs a quarter of the time.
system-packages:
	@missing=""; \
	command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing="$$missing postgresql"; \
	PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || missing="$$missing nginx-light"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	[ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null; then as_root=no; \
	elif [ "$$(id -u)" = 0 ]; then as_root=""; \
	elif sudo -n true 2>/dev/null; then as_root="sudo"; \
	else as_root=no; fi; \
	if [ "$$as_root" = no ]; then \
	  echo "Not installed and not installable from here:$$missing. The tests that need them are skipped." >&2; \
	  exit 0; \
	fi; \
	echo "Installing for the tests:$$missing"; \
	$$as_root apt-get update -qq; \
	if apt-cache show chromium-headless-shell >/dev/null 2>&1; then \
	  missing="$${missing/chromium/chromium-headless-shell}"; \
	fi; \
	$$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	  apt-get install -y -qq --no-install-recommends $$missing >/dev/null
