# Two commands do all set-up: `make demo` and `make test`. Both make the virtual environment they need.
# `make check` is the gate, and `make test` another name for it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUNDLE := bundles/demo-int4
PROMPT := Write a bedtime story called `The Lantern and the Lost Star`.
# Exported, and read by the shell as "$$PROMPT": backticks and quotes in it are text then, not the shell's.
export PROMPT
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: demo demo-tables check test slow sanitize android pictures install clean

# torch is pinned to the CPU build, since a looser range brings gigabytes of GPU packages.
$(VENV)/installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The installation built the kernels; this builds them again when their sources have changed. Without a compiler the
# portable ones are used.
$(VENV)/kernels: $(VENV)/installed runtime/kernels/build.py $(wildcard runtime/kernels/native/*.cpp runtime/kernels/native/*.h)
	$(BIN)/python -m runtime kernels --build --rows 0 || true
	touch $@

install: $(VENV)/installed $(VENV)/kernels

demo: install
	$(BIN)/python -m export --target demo --quant int4 --output $(BUNDLE)
	$(BIN)/python -m runtime compare $(BUNDLE) --max-new-tokens 200 -- "$$PROMPT"

# Every table that depends on the demo models, after they have changed. TEXT: instruct-valid.jsonl of their data, unpacked.
DEMO := export/demo
FAMILY := $(DEMO)/Llama-Pocketspec
demo-tables: install
	$(BIN)/python -m export --target demo --quant int4 --output $(BUNDLE)
	$(BIN)/python -m export measure --teacher $(FAMILY)-9M --students $(FAMILY)-6M $(FAMILY)-0.6M --text $(TEXT) \
	    --count 93 --samples 20 --output $(DEMO)/MEASURED.md
	$(BIN)/python -m memory verify $(BUNDLE) --sweep > $(DEMO)/MEMORY.md
	$(BIN)/python -m runtime bench $(BUNDLE) --prompts $(TEXT) --count-per-category 1 --count 16 --tokens 128 --repeat 3 \
	    --compare plain,suffix,chain,tree,auto --output $(DEMO)/SPEED.md

# The gate: all that must pass, quickest first. pytest takes 8 s in every process to prepare asserts that show their
# values, so only what has failed runs again with them.
check: install
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --assert plain || \
	    { $(BIN)/python -m pytest --last-failed; exit 1; }

test: check

# What the gate leaves out: real models, other versions of packages, whole sweeps.
slow: install
	$(BIN)/python -m pytest -m slow

# The operators' own test program under the address, undefined and thread sanitizers; a part of the slow tests.
sanitize: install
	$(BIN)/python -m pytest -m slow tests/runtime/kernels/test_sanitizers.py

# The Android demo without Android Studio: compiles it, runs its tests on the desktop JVM, assembles a debug APK. Tools
# that are missing are named, and what needs them is skipped.
android: install
	$(BIN)/python -m android_demo.check

# The picture of measured results, from their table.
pictures:
	$(PYTHON) -m runtime.bench.results_picture

clean:
	rm -rf $(VENV) bundles build *.egg-info runtime/kernels/libpocketspec.*
