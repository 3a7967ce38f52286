# SPDX-License-Identifier: AGPL-3.0-or-later
# Every target that needs Python packages makes or updates .venv first (env/setup.sh).
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-oom test test-all lint format lock bump render build push sign save load bench clean

BIN := .venv/bin
JOBS ?= 2
TESTS := tests/unit tests/dist tests/faults
# Hundreds of tests start Python; where it may not keep its bytecode, each compiles what it imports of torch.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -q -n $(JOBS) --dist loadfile
# Without what puts the image's environment back on PATH in every bash, where this runs in one.
BATS := env -u BASH_ENV $(BIN)/bats --print-output-on-failure
SHELL_FILES = $(shell find .ci deploy docker env scripts tests -type f \
    \( -name '*.sh' -o -name '*.sbatch' -o -name '*.bash' -o -name '*.bats' -o -path .ci/run -o -path .ci/scheduled \
    -o -path 'docker/workbench/build/*' \) 2>/dev/null)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make or update .venv from the lock (PYTHON=/path/to/python3 chooses the interpreter)
	@env/setup.sh

demo: setup ## the whole tour on this machine: synthetic data, train, validate, predict, export
	$(BIN)/yolov12 demo

demo-oom: setup ## a training beside a neighbour that takes half of the card in mid-run (simulated without a GPU)
	$(BIN)/yolov12 demo oom

# The checkout before whatever else has this package: in the image yolov12:dev the environment does.
test test-all lint lock render demo demo-oom: export PYTHONPATH := $(CURDIR)

test: setup ## the tests of every commit (JOBS=2 processes)
	$(BATS) tests/shell
	$(PYTEST) $(TESTS)

test-all: setup ## the tests of `make test` and those too slow or too demanding for it, which it lists first
	@echo "Beyond 'make test' this runs:"
	@$(BIN)/pytest -q --collect-only -m slow $(TESTS) | grep '::' || echo "  no slow tests"
	@$(BIN)/pytest -q --collect-only -m '' tests/gpu tests/image | grep '::' || echo "  no GPU or image tests"
	$(BATS) tests/shell
	$(PYTEST) -m '' -rs tests

lint: setup ## ruff, mypy, shellcheck, shfmt, hadolint, and whether generated files follow env/
	$(BIN)/python env/render.py --check
	$(BIN)/python env/workflow.py --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck $(SHELL_FILES)
	$(BIN)/shfmt -d $(SHELL_FILES)
	$(BIN)/hadolint docker/Dockerfile

format: setup ## let ruff and shfmt rewrite what they can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/shfmt -w $(SHELL_FILES)

lock: setup ## resolve the pins of env/versions.yaml into env/locks (UPGRADE=1: newest of what is not pinned)
	$(BIN)/python env/relock.py $(if $(UPGRADE),--upgrade)

bump: setup ## change a pin with all that follows from it: PKG=onnx VERSION=1.2.3 (several: PKG="a b" VERSION="1.2 3.4"; SHA256=... of what has one)
	$(BIN)/python env/bump.py "$(PKG)" "$(VERSION)" --sha256 "$(SHA256)"

render: setup ## write the files that follow from env/*.yaml
	$(BIN)/python env/render.py
	$(BIN)/python env/workflow.py

build: ## build the image yolov12:$VARIANT (VARIANT ARCHS CUDA ENV_MANAGER FLASH_ATTN DALI TENSORRT NCCL_TESTS ..., all optional: docker/build.sh)
	docker/build.sh

push: ## push the built image under computed tags: REGISTRY=registry.example/team (VARIANT ALLOW_DIRTY; docs/registry.md)
	@docker/push.py

sign: ## sign a pushed image with its bill of materials: IMAGE=registry.example/team/yolov12@sha256:... (KEY; docs/registry.md)
	@docker/sign.sh

save: ## write the built image to FILE=yolov12-train.tar.zst with its hash beside it, for machines without a network (VARIANT)
	@docker/save.sh

load: ## check FILE against its hash and load it into the local engine
	@docker/load.sh

bench: setup ## compare with stock ultralytics here: all that this machine can run, or BENCH=memory,attention; one table at the end
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m benchmarks suite $(BENCH)

clean: ## remove .venv and tool caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
