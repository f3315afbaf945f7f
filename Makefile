# `make demo` and `make test` set up .venv themselves; PYTHON names the interpreter it is made with.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow check measure clean

demo: .venv/installed
	$(BIN)/ovseg label examples/images --preset pocket --classes-file examples/classes.txt --out build/demo --overwrite
	@echo "Look at build/demo/*.overlay.png"

test: .venv/installed
	$(BIN)/python -m pytest

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The README's figures, on 100 scenes that nothing was trained or tuned on.
SCENES := build/scenes
measure: .venv/installed
	$(BIN)/python -m pocket.world --seed 0 --count 100 --out $(SCENES)
	$(BIN)/ovseg label $(SCENES)/images --preset pocket --classes-file $(SCENES)/classes.txt --background none \
		--out build/label --overwrite
	$(BIN)/ovseg masks $(SCENES)/images --preset pocket --out build/emerdiff --overwrite
	$(BIN)/ovseg masks $(SCENES)/images --preset pocket --upsampling naive --out build/naive --overwrite
	$(BIN)/python -m eval.score build/label --labels $(SCENES)/labels --classes $(SCENES)/classes.txt
	$(BIN)/python -m eval.score build/emerdiff --against build/naive --best-label \
		--labels $(SCENES)/labels --classes $(SCENES)/classes.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build/demo build/scenes build/label build/emerdiff build/naive
