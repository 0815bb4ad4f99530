# make help lists the targets. Everything runs from the locked environment in .venv (uv makes it).
SHELL := /bin/bash
# Where there is no uv, it is installed into .uv (see the rule).
export UV ?= $(or $(shell command -v uv),$(CURDIR)/.uv/bin/uv)
RUN := $(UV) run --frozen

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-16s %s\n", $$1, $$2}'

$(CURDIR)/.uv/bin/uv:
	tools/install-uv.sh .uv

.PHONY: env
env: $(filter $(CURDIR)/%,$(UV)) ## the locked environment, and links by which mypy sees holdfast.*
	$(UV) sync --frozen -q
	@mkdir -p build/typing/holdfast
	@for d in agent coordinator proto; do ln -sfn ../../../$$d build/typing/holdfast/$$d; done

.PHONY: demo
demo: env ## see it work: replication, a link cut in mid-transfer, a power cut (root, Debian 12)
	$(RUN) python -m demo

TIERS := lint test-unit $(if $(wildcard tests/sim),test-sim) test-integration test-lab

.PHONY: test
test: ## everything: lint and all tiers, each with its time; installs what it needs (root, Debian 12)
	@set -euo pipefail; for tier in $(TIERS); do \
		echo "=== $$tier"; start=$$SECONDS; $(MAKE) --no-print-directory $$tier; \
		echo "=== $$tier: $$((SECONDS - start)) s"; \
	done

.PHONY: ci
ci: ## what continuous integration runs
	.ci/run

.PHONY: bench
bench: env ## the figures of the README, each as a ratio in one run (the first three in virtual hosts)
	$(RUN) python benchmarks/cycle.py
	$(RUN) python benchmarks/pause.py
	$(RUN) python benchmarks/transfer.py
	$(RUN) python benchmarks/tls.py
	$(RUN) python benchmarks/formats.py
	$(RUN) python benchmarks/pruning.py
	$(RUN) env PYTHONPATH=tests python benchmarks/mirror.py
	$(RUN) env PYTHONPATH=tests python benchmarks/etcd.py
	$(RUN) python benchmarks/rbd.py

.PHONY: soak
soak: env ## counted runs, each a line in tests/soak/LEDGER.md: make soak SCENARIO=replication N=10 SEED=1
	$(RUN) env PYTHONPATH=tests python -m soak $(SCENARIO) --count $(or $(N),10) --seed $(or $(SEED),1)

.PHONY: proto
proto: env ## generate Python from proto/*.proto (grpcio-tools <= 1.71: loads under protobuf runtimes 5 to 7)
	cd proto && $(RUN) --project .. python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. *.proto

.PHONY: lint
lint: env ## ruff, mypy --strict, import rules
	$(RUN) ruff check . && $(RUN) ruff format --check .
	$(RUN) mypy -p holdfast.agent -p holdfast.coordinator
	$(RUN) lint-imports

.PHONY: test-unit
test-unit: env ## planners, parsers, formats
	$(RUN) pytest tests/unit

.PHONY: test-sim
test-sim: env ## the simulator: its scenarios, what it is made of, and CI's share of random schedules
	$(RUN) pytest tests/sim
	$(MAKE) sim

.PHONY: sim
sim: env ## thousands of random schedules of faults on virtual time; fails where a fault never met a step
	$(RUN) python -m tests.sim ci

.PHONY: mutants
mutants: env ## deliberate bugs, each of which the simulator must catch
	$(RUN) python -m tests.sim mutants

.PHONY: test-integration
test-integration: env ## against real services on loopback; Ceph's tests beside the rest, as most of both is waiting
	tools/beside.sh build/ceph.log '$(RUN) pytest tests/integration/ceph --capture=sys' \
		'$(RUN) pytest tests/integration --ignore tests/integration/ceph'

LAB := $(RUN) python -m tests.lab

.PHONY: lab-build
lab-build: env ## what the virtual hosts run from (minutes on the first run on a machine)
	$(LAB) build

.PHONY: lab-up
lab-up: env ## two virtual hosts with OpenZFS, and an etcd (see tests/lab/README.md)
	$(LAB) up

.PHONY: lab-shell
lab-shell: env ## a shell in a virtual host: make lab-shell HOST=1
	$(LAB) shell $(or $(HOST),1)

.PHONY: lab-down
lab-down: env ## remove the virtual hosts
	$(LAB) down

# What measures no time against a promise gives way to what does, in a lab of its own.
CALM := $(addprefix tests/lab/test_,lab.py mount_rbd.py rollback.py streams_model.py volumes_model.py)

.PHONY: test-lab
test-lab: lab-build ## on virtual hosts with real OpenZFS, in two labs at once
	tools/beside.sh build/lab.log \
		'env HOLDFAST_LAB_NAME=calm nice $(RUN) pytest $(CALM) --capture=sys --durations=12' \
		'$(RUN) pytest tests/lab $(addprefix --ignore ,$(CALM)) --durations=12'
