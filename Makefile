# Everything a fresh clone needs; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
comma  := ,
# The order is that of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart reproduce-mof notebooks test test-notebooks test-slow fuzz test-plan plan-check plan-all test-parity test-open-clip \
	bench lint pack clean

quickstart: $(VENV)/.installed  ## train, evaluate and draw on the embedded pictures
	$(BIN)/mof train --config configs/clip/quickstart.py --workdir runs/quickstart

notebooks: $(VENV)/.notebooks  ## run all notebooks anew (five minutes) and save them with their outputs
	rm -rf runs/notebook_*
	$(BIN)/python scripts/run_notebooks.py

test-notebooks: $(VENV)/.dev  ## run all notebooks in a clean copy
	$(BIN)/python -m pytest -q tests/test_notebooks.py

test: $(VENV)/.dev  ## the suite
	$(PYTEST) tests -m "not slow and not parity and not open_clip"

test-slow: $(VENV)/.dev  ## long runs: the toy DFN loop, the largest compiles, kills of two hosts, every notebook
	$(PYTEST) tests -m slow

fuzz: $(VENV)/.dev  ## 10^5 mutated inputs of all readers (two to six minutes); writes runs/fuzz.md and runs/fuzz.json
	$(BIN)/python -m tests.fuzz --cases 100000 --out runs/fuzz

test-plan: $(VENV)-plan/.installed  ## compile for a TPU slice, without one
	$(VENV)-plan/bin/python -m pytest -q tests/test_tpu_compile.py tests/nn/test_attention_tpu_compile.py \
		tests/mining/test_tiles_tpu_compile.py tests/plan/test_shrink.py -m slow

plan-check: $(VENV)-plan/.installed  ## every config that names slices: compiled with two layers on a few chips, the full form counted
	JAX_PLATFORMS=cpu $(VENV)-plan/bin/python scripts/plan_check.py

plan-all: $(VENV)-plan/.installed  ## every config compiled for the slices it names (about an hour); writes docs/plans.md
	JAX_PLATFORMS=cpu $(VENV)-plan/bin/python scripts/plan_all.py docs/plans.md

test-parity: $(VENV)-parity/.installed  ## live against transformers
	$(VENV)-parity/bin/python -m pytest -q tests/parity -m parity

test-open-clip: $(VENV)-open-clip/.installed  ## live against open_clip (downloads several GB of torch)
	$(VENV)-open-clip/bin/python -m pytest -q tests/parity -m open_clip

reproduce-mof: $(VENV)/.dev  ## CLIP-blind pairs and mixtures of features at toy scale: towers, readers, report (about an hour)
	$(BIN)/python -m mof_jax.studies.blindness --config configs/mof/reproduce.py --out runs/reproduce_mof

bench: $(VENV)-open-clip/.installed  ## loss and training step against open_clip, data against a plain loop
	$(VENV)-open-clip/bin/mof bench loss
	$(VENV)-open-clip/bin/mof bench train
	$(VENV)-open-clip/bin/mof bench data

lint: $(VENV)/.dev
	$(BIN)/ruff check mof_jax configs tests scripts launch

pack: $(VENV)/.dev  ## rebuild the embedded pictures from their packages and compare
	$(BIN)/pip install -q -e .[pack] && $(BIN)/python scripts/build_emoji5.py --check

# uv where there is one (seconds), pip elsewhere.
define install
	$(PYTHON) -m venv $(1)
	if command -v uv >/dev/null; then uv pip install -q --python $(1)/bin/python $(2); \
	else $(1)/bin/python -m pip install -q --disable-pip-version-check $(2); fi
	touch $@
endef

$(VENV)/.installed: setup.py
	$(call install,$(VENV),-e .)

$(VENV)/.dev: setup.py
	$(call install,$(VENV),-e .[dev])
	touch $(VENV)/.installed

$(VENV)/.notebooks: setup.py
	$(call install,$(VENV),-e .[dev$(comma)notebooks])
	touch $(VENV)/.installed $(VENV)/.dev

$(VENV)-plan/.installed: setup.py
	$(call install,$(VENV)-plan,-e .[dev$(comma)plan])

# torch goes first and through pip: the wheel for CPUs.
$(VENV)-parity/.installed: setup.py
	$(PYTHON) -m venv $(VENV)-parity
	$(VENV)-parity/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(VENV)-parity/bin/python -m pip install -q --disable-pip-version-check -e .[parity] pytest
	touch $@

$(VENV)-open-clip/.installed: setup.py
	$(call install,$(VENV)-open-clip,-e . pytest torch==2.13.0 torchvision open_clip_torch==3.3.0 timm==1.0.31)

clean:
	rm -rf $(VENV) $(VENV)-plan $(VENV)-parity $(VENV)-open-clip runs
