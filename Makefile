# Everything runs on a bare Debian 12 machine as root, from a fresh clone: `make demo`, `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
VENV := .venv/bin
STEPS := 100000
FUZZ_SECONDS := 1800
LOAD_SECONDS := 3600
GUEST_STEPS := 500
PEER :=

.PHONY: help setup deb rpm hello-eif hello-small-eif demo docs test soak bench lint clean
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

setup: .venv/ready ## Install the packages that building and testing need

demo: hello-small-eif ## Show the main job, end to end, in a throw-away guest
	tests/vm/run --file build/hello-small.eif --file tests/vm/scripts/vsock_echo.py tests/vm/demo.sh

test: setup lint ## Run all checks and all rings of tests, two guests at once
	$(VENV)/pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder --durations 25 --junitxml build/tests.xml

soak: setup .venv/soak ## Search for what breaks a promise, some hours; STEPS, GUEST_STEPS, LOAD_SECONDS and FUZZ_SECONDS bound it
	for kind in allocator service; do $(VENV)/python -m tests.soak --of $$kind --steps $(STEPS); done
	tests/vm/ring --timeout 36000 walk.sh $(GUEST_STEPS)
	tests/vm/ring --timeout $$(($(LOAD_SECONDS) + 1200)) load.sh $(LOAD_SECONDS)
	for reader in frames yaml image; do $(VENV)/python -m tests.soak.fuzz $$reader --seconds $(FUZZ_SECONDS); done

bench: setup .venv/bench ## Measure, an hour, and write docs/performance.md; PEER is AWS's allocator, by its path
	$(VENV)/python -m tests.bench $(if $(PEER),--peer $(PEER))

lint: setup ## Check types, style and the shell scripts
	$(VENV)/mypy
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .

hello-eif: setup ## Build the sample image build/hello.eif
	examples/hello/build build/hello.eif

hello-small-eif: setup ## Build build/hello-small.eif, the same with a small kernel (minutes, once)
	examples/hello/build --small build/hello-small.eif

docs: setup ## Write anew what is documented by the code itself
	$(VENV)/python docs/generated.py

deb: setup ## Build the package dist/enclave-cli_<version>_amd64.deb
	packaging/build deb

rpm: setup ## Build dist/enclave-cli-<version>-1.x86_64.rpm, and its source package
	packaging/build rpm

clean: ## Remove everything that was built, the guest image too
	rm -rf .venv .cache build dist

.venv/ready: pyproject.toml packaging/apt-packages.txt packaging/requirements.txt tests/requirements.txt
	packaging/install-packages
	/usr/bin/python3 -m venv --clear .venv
	$(VENV)/pip install --quiet --require-hashes --requirement packaging/requirements.txt
	$(VENV)/pip install --quiet --requirement tests/requirements.txt
	$(VENV)/pip install --quiet --no-deps --editable .
	touch $@

.venv/soak: .venv/ready tests/soak-requirements.txt
	$(VENV)/pip install --quiet --requirement tests/soak-requirements.txt
	touch $@

.venv/bench: .venv/ready tests/bench-requirements.txt
	$(VENV)/pip install --quiet --requirement tests/bench-requirements.txt
	touch $@
