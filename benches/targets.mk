# The benches' part of the Makefile, which includes this file. ARGS passes flags on.
# Reports go to benches/results, named after the day.

RESULTS := benches/results/$(shell date -u +%Y-%m-%d)
MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
RUN_BENCH = $(CARGO) run --quiet --release --locked --package quire-benches --bin
# Keeps what a command prints in $(1).md, prints it too, and fails as the command does.
keep = > $(1).md; status=$$?; cat $(1).md; exit $$status

.PHONY: bench-cpu bench-kernels bench-offline bench-peers

bench-cpu: bench-kernels bench-offline ## Time every op and the engine as shares of this machine's limits

bench-kernels: ## Time the ops alone (ARGS='"SmolLM2 Q4_1"' only cases with these words)
	@$(RUN_BENCH) kernels -- --json $(RESULTS)-kernels.json $(ARGS) $(call keep,$(RESULTS)-kernels)

bench-offline: model ## Time the engine alone (MODEL=file.gguf)
	@$(RUN_BENCH) offline -- $(MODEL) --json $(RESULTS)-offline.json $(call keep,$(RESULTS)-offline)

bench-peers: build model ## Compare with llama.cpp in turn on this machine (MODEL=file.gguf ARGS="--users 1,32")
	@$(CARGO) build --quiet --release --locked --package quire-benches
	@$(PYTHON) benches/peers.py $(MODEL) --json $(RESULTS)-peers.json $(ARGS) $(call keep,$(RESULTS)-peers)
