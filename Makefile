# `make demo` and `make test` set up .venv themselves; PYTHON names the interpreter it is made with.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-full-size fuzz check typed measure benchmarks clean

demo: .venv/installed
	$(BIN)/ovseg label examples/photos --preset photo --classes-file examples/photos.txt --out build/demo --overwrite
	@echo "Look at build/demo/*.overlay.png"

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-full-size: .venv/installed
	$(BIN)/python -m pytest -m full_size

# Damaged models, records, images, videos, archives and flags, by fixed seeds: some 10,000 cases of each, see
# tests/fuzzing.py.
CASES ?= 10000
fuzz: .venv/installed
	OVSEG_FUZZ_CASES=$(CASES) $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 0 tests/test_fuzz_*.py

check: .venv/installed typed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What mypy reads: links that put eval, prompts and pocket inside ovseg, as they are imported (see pyproject.toml).
# With the links made, `.venv/bin/mypy` alone checks everything.
typed:
	rm -rf build/typed
	mkdir -p build/typed/ovseg
	ln -s "$(CURDIR)"/ovseg/* "$(CURDIR)/eval" "$(CURDIR)/prompts" "$(CURDIR)/pocket" build/typed/ovseg/

# The tables of quality in docs/RESULTS.md, on scenes that nothing was trained or tuned on, a lead over the first run of
# a table in each; every source without the preset's refiner, and with it. The diffusion model's work is done once.
# Others: make measure ROOT=world3/heldout/0 MASKS=10 LIMIT=200 SPEED=exact
ROOT ?= world3/evaluation/0
MASKS ?= 20
LIMIT ?= 100
SPEED ?= fast
RUNS := build/eval/$(ROOT)/$(LIMIT)-scenes/masks-$(MASKS)-$(SPEED)
PREDICT := $(BIN)/ovseg eval predict pocket --root $(ROOT) --preset pocket --limit $(LIMIT) \
	--masks $(MASKS) --speed $(SPEED)
SCORE := $(BIN)/ovseg eval score pocket --root $(ROOT)
measure: .venv/installed
	$(PREDICT) --by emerdiff --refine none --out $(RUNS)/emerdiff --keep-analysis
	for source in none naive slic truth; do \
		$(PREDICT) --by $$source --refine none --out $(RUNS)/$$source --analyses $(RUNS)/emerdiff || exit; done
	for source in none naive slic emerdiff; do \
		$(PREDICT) --by $$source --out $(RUNS)/$$source-refined --analyses $(RUNS)/emerdiff || exit; \
		$(SCORE) --predictions $(RUNS)/$$source $(RUNS)/$$source-refined --out $(RUNS)/refined-$$source || exit; done
	$(SCORE) --predictions $(addprefix $(RUNS)/,none slic naive emerdiff truth) --out $(RUNS)/labels
	for base in naive slic; do \
		$(SCORE) --predictions $(RUNS)/$$base $(RUNS)/emerdiff --out $(RUNS)/labels-over-$$base || exit; \
		$(SCORE) --predictions $(RUNS)/$$base $(RUNS)/emerdiff --out $(RUNS)/masks-over-$$base --best-label || exit; \
		$(SCORE) --predictions $(addprefix $(RUNS)/,$$base-refined emerdiff-refined) \
			--out $(RUNS)/refined-masks-over-$$base --best-label || exit; done
	$(SCORE) --predictions $(addsuffix -refined,$(addprefix $(RUNS)/,none naive slic emerdiff)) --out $(RUNS)/refined
	$(SCORE) --predictions $(RUNS)/emerdiff $(RUNS)/emerdiff-refined --out $(RUNS)/refined-masks --best-label
	$(BIN)/ovseg eval unsupervised pocket --root $(ROOT) --predictions $(RUNS)/emerdiff

# The eight benchmarks by one family's rules, see docs/BENCHMARKS.md; goes on where it was stopped. FLAGS: more for
# `ovseg eval predict`, such as --partial, --device cuda or --clip FOLDER.
DATA ?= data
FAMILY ?= naclip
DENSE ?= $(FAMILY)
BY ?= none
FLAGS ?=
benchmarks: .venv/installed
	for set in voc21 context60 coco-object voc20 context59 coco-stuff171 cityscapes ade20k; do \
		$(BIN)/ovseg eval predict $$set --root $(DATA) --by $(BY) --dense $(DENSE) --protocol $(FAMILY) \
			--pixel-exact --out runs/$(FAMILY)-$(DENSE)-$(BY)/$$set --score $(FLAGS) || exit; done
	$(BIN)/ovseg eval table runs/$(FAMILY)-$(DENSE)-$(BY)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	$(MAKE) typed
	touch $@

clean:
	rm -rf .venv build/demo build/eval build/typed
