# Every target does its own set-up and may be repeated. `make` alone lists them.

# The interpreter to build on; empty means python3, or the newest of python3.13 to python3.11 when that one is older.
PYTHON ?=
# Where the environment lives. One for each interpreter: make test PYTHON=python3.12 VENV=.venv312
VENV ?= .venv
# Test processes: half of the time they wait, so three keep two cores busy (decision 0095).
JOBS ?= 3
# More words for pytest or the benchmarks: make test ARGS="-k chaos"
ARGS ?=

RUN = $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup servers celery peers demo lint docs docs-serve test test-quick test-newer simulate cost bench bench-peers clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## Build the environment in .venv (again only when pyproject.toml changed)
	@PYTHON='$(PYTHON)' VENV='$(VENV)' sh scripts/setup.sh

servers: ## Install the servers, chromium, tmux and valgrind that tests start for themselves: redis, rabbitmq, postgresql, pgbouncer, mariadb, memcached
	@sh scripts/setup.sh servers

celery: ## Build .venv-celery, with the Celery that interoperability is tested against
	@PYTHON='$(PYTHON)' sh scripts/setup.sh celery

peers: ## Build .venv-peers, with the task queues that aiotq is measured beside
	@PYTHON='$(PYTHON)' sh scripts/setup.sh peers

docs: ## Build the documentation site into build/docs/site; broken links and missing pages fail
	@PYTHON='$(PYTHON)' sh scripts/setup.sh docs
	.venv-docs/bin/python scripts/documentation.py

docs-serve: ## Show the documentation site, and each change of a page
	@PYTHON='$(PYTHON)' sh scripts/setup.sh docs
	.venv-docs/bin/python scripts/documentation.py serve

demo: setup ## Survey Python's standard library with a worker in a process of its own
	$(RUN) examples/stdlib_survey/demo.py $(ARGS)

lint: setup docs ## Check format, style, types, the direction of imports and the documentation site
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(RUN) -m pyright --pythonpath $(RUN)
	$(RUN) -m pytest -q tests/unit/test_import_direction.py

test: setup servers celery ## Run all tests, those that kill workers included; first see that no path takes more instructions
	$(if $(ARGS),,$(RUN) -m benchmarks.instructions --check)
	$(RUN) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# What needs no server and no Celery: two minutes on two cores. The gate runs all.
QUICK_TESTS = tests/unit tests/guide tests/contract tests/semantics
QUICK_NAMES = unit or guide or ((memory or sqlite) and not redis and not rabbitmq)

test-quick: setup ## Run the tests that need no server: an answer within two minutes
	$(RUN) -m pytest -n $(JOBS) --dist worksteal $(QUICK_TESTS) -k "$(QUICK_NAMES)" $(ARGS)

# Which servers are tested with which of these is a table in the script. SERVERS=valkey-8.1: that one alone.
NEWER_TESTS = tests/contract tests/semantics tests/integration tests/interop tests/chaos

test-newer: setup servers celery ## Run the tests that concern them on Redis 6.2 to 8.2, Valkey 8.1, RabbitMQ 4.0 (as root)
	@sh scripts/newer-servers.sh build
	@SERVERS='$(SERVERS)' sh scripts/newer-servers.sh test \
		$(RUN) -m pytest -n $(JOBS) --dist worksteal $(or $(ARGS),$(NEWER_TESTS))

SEEDS ?= 20000

simulate: setup ## Run 20,000 worlds of simulated processes, servers and faults; a seed that breaks a promise is printed
	$(RUN) -m tests.simulation --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

cost: setup servers ## Count the instructions of eleven paths; one that takes 5 % more than stored fails
	$(RUN) -m benchmarks.instructions --check $(ARGS)

bench: setup servers ## Measure, and print each figure beside its target
	$(RUN) -m benchmarks $(ARGS)

bench-peers: setup servers peers ## Measure aiotq and other task queues in turn, and print them side by side
	$(RUN) -m benchmarks.peers $(ARGS)

clean: ## Remove the environment and everything that was built
	@if [ -f '$(VENV)/pyvenv.cfg' ]; then rm -rf '$(VENV)'; fi
	@rm -rf --one-file-system .newer-servers
	@for venv in .venv-celery .venv-peers .venv-docs; do if [ -f $$venv/pyvenv.cfg ]; then rm -rf $$venv; fi; done
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
