# `make help` lists every verb; each is a script in bin/ or a command of `shipway` that can be run by hand.
SHELL := /bin/sh
SHIPWAY := .venv/bin/shipway

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test lint format bench lock screenshot clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install Debian packages and the virtual environment
	@bin/bootstrap

demo: setup ## install all, start the platform, push a sample app, show its answer
	@.venv/bin/python bin/demo

up: setup ## start the platform in the background
	@$(SHIPWAY) up

down: ## end the platform; apps keep running (APPS=1 stops them, too)
	@$(SHIPWAY) down $(if $(APPS),--apps)

test: ## install what the tests need, then run every check and test (ARGS="..." goes to pytest)
	@bin/bootstrap test
	@bin/test $(ARGS)

lint: ## ruff, mypy and the rules of the house
	@bin/bootstrap test
	@bin/lint

format: ## put all code into its form
	@.venv/bin/ruff check -q --fix . && .venv/bin/ruff format -q .

bench: ## measure beside the peers (ONLY=name,name for some rows); installs docker.io, nginx and wrk
	@bin/bootstrap test
	@.venv/bin/python -m benchmarks $(if $(ONLY),--only $(ONLY))

lock: ## lock the requirements anew from pyproject.toml
	@bin/lock

screenshot: ## take the README's screenshot from the running demo
	@bin/bootstrap test
	@.venv/bin/python bin/screenshot

clean: ## remove the virtual environment and caches (never the data folder)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .mypy_path *.egg-info build dist
