# Everything a developer runs. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help dev test soak bench lint tools contract sqlx clean

# Queries are checked against the committed caches; `make lint` checks the caches.
export SQLX_OFFLINE ?= true

help: ## List these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | \
		while IFS=$$'\t' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

dev: ## Build and run the whole plane on this machine until Ctrl-C
	@scripts/dev

test: ## Run every test against a Postgres, Redis and Docker of its own (ARGS go to the runner)
	@scripts/test $(ARGS)

soak: ## Run the fault suites with their full counts (about an hour); print one line a suite at the end
	@scripts/soak $(ARGS)

bench: ## Measure performance as ratios to baselines; fail if a ratio misses its limit
	@scripts/bench $(ARGS)

lint: ## Check language, formatting, code, contract, query caches and dependencies
	@scripts/lint

tools: ## Install the pinned tools into a cache outside the checkout
	@scripts/tools lint >/dev/null && scripts/tools test >/dev/null

contract: ## Renew the committed contract and OpenAPI document
	@scripts/contract

sqlx: ## Renew the committed query caches
	@scripts/sqlx-cache write

clean: ## Stop leftover processes, remove the development data and the build, and list what is removed
	@scripts/clean
