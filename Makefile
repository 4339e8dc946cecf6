# make demo: train, prune and export a language model on real text
# make test: lint, and tests on TensorFlow, JAX and PyTorch
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Three workers on two cores: they often wait for a converter's process.
WORKERS ?= 3
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test lint fuzz bench bench-pruning clean

demo: $(READY)
	$(BIN)/python examples/next_word.py $(DEMO_ARGS)

# All of them on TensorFlow; on JAX and PyTorch those of layers and pruning that
# tests/everywhere.txt names.
# Files in order: by default xdist leaves those with few and long tests for the end.
IN_ORDER := --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) -q

test: lint
	$(PYTEST) $(IN_ORDER) -m "not long" $(TEST_ARGS)
	KERAS_BACKEND=jax $(PYTEST) --dist worksteal @tests/everywhere.txt
	KERAS_BACKEND=torch $(PYTEST) --dist worksteal @tests/everywhere.txt

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Random models, 500 for each property, and what takes long; SEED=… repeats a run.
FUZZ_EXAMPLES ?= 500
SEED ?= $(shell date +%s)
fuzz: $(READY)
	@echo "seed $(SEED)"
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -q -m "fuzz or long" --hypothesis-seed=$(SEED)

bench: $(READY)
	$(BIN)/python benchmarks/grouped_rnn.py
	$(BIN)/python benchmarks/lowering.py
	$(BIN)/python benchmarks/tiered_embedding.py

# Hours, three seeds: DATA=… is a folder with the Penn Treebank; goes on where it was.
bench-pruning: $(READY)
	$(BIN)/python benchmarks/pruning.py --data $(DATA) $(BENCH_ARGS)

# The mark of a finished install: an interrupted one is taken up again.
$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[jax,plot,test,torch]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
