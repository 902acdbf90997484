# make help lists the targets. Every target does the set-up that it needs, which takes no time once it is done.
#   DEVICE=cpu|cuda|npu   the device to install for (default: detected)
#   PYTHON=/path/to/it    the Python 3.10-3.12 to use (default: the best one found)
#   LOCKED=1              the exact versions of requirements/, as in CI (default: the newest that setup.py allows)

SHELL := /bin/bash
DEVICE ?= auto
PYTHON ?=
LOCKED ?=
PY := .venv/bin/python
TESTS ?= tests

.PHONY: help install demo docs test test-fast test-gpu lint clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

install: ## create .venv with everything for this machine's device
	@python="$(PYTHON)"; python="$${python:-$$(command -v python3 || command -v python)}"; \
	if [ -z "$$python" ]; then echo "install: no Python on PATH: install Python 3.10, 3.11 or 3.12" >&2; exit 2; fi; \
	"$$python" tools/install.py --device "$(DEVICE)" --python "$(PYTHON)" $(if $(filter-out 0,$(LOCKED)),--locked)

demo: install ## SFT, reward model and PPO on movie reviews, in minutes
	@$(PY) -m demo.prepare
	@$(PY) -m demo.run

docs: install ## the documentation as a site, in docs/_build
	@$(PY) -m sphinx -q -W --keep-going -n $(if $(SOURCE_URL),-D source_url=$(SOURCE_URL)) -c docs . docs/_build
	@echo "open docs/_build/index.html in a browser"

lint: install ## ruff, its formatter and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# The fast tests run side by side; those with real workers take the machine for themselves. Exit 5: there are none.
SIDE_BY_SIDE = -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test: lint ## lint and all tests
	$(PY) -m pytest $(SIDE_BY_SIDE) $(TESTS) || [ $$? -eq 5 ]
	$(PY) -m pytest -m slow --durations=25 --durations-min=5 $(TESTS) || [ $$? -eq 5 ]

test-fast: install ## the tests without real workers, engines and downloads
	@SECONDS=0; $(PY) -m pytest $(SIDE_BY_SIDE) --hypothesis-profile=fast $(TESTS); code=$$?; \
	echo "test-fast took $$SECONDS s"; exit $$code

test-gpu: ## on a CUDA card: tests, PPO, memory, speed; writes benchmarks/results/gpu-CARD.md (PARTS=a,b: only these)
	@python="$(PYTHON)"; "$${python:-$$(command -v python3 || command -v python)}" benchmarks/gpu.py --check
	@$(MAKE) --no-print-directory install DEVICE=cuda
	@$(PY) benchmarks/gpu.py $(if $(PARTS),--parts $(PARTS))

clean: ## remove .venv and caches, but no runs
	rm -rf .venv build docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
