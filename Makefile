# Two commands for a stranger: make demo, make test. Both make .venv here once and use it again.
PYTHON ?= python3
PYTEST_ARGS ?=
BIN := .venv/bin

# A .venv does not survive being moved: its scripts name their folder. The stamps hold it; elsewhere they are void.
$(foreach stamp,$(wildcard .venv/.installed*),$(if $(filter-out 1,$(shell grep -qxF "$(CURDIR)" $(stamp) && echo 1 || echo 0)),$(shell rm -f $(stamp))))

.PHONY: demo serve test quick ranks check lint lies docs launch-examples figure real-data reviews bench-tables clean help
.DEFAULT_GOAL := help
.NOTPARALLEL:

help:
	@echo "make demo       plan a small run, train it on 2 ranks, print its receipt (under 3 minutes once installed)"
	@echo "make serve      serve what the demo has trained, on http://127.0.0.1:8000 (docs/serve.md); Ctrl-C ends it"
	@echo "make test       the tests: make quick, then make ranks; PYTEST_ARGS='-m slow' for the long ones (docs/testing.md)"
	@echo "make check      formatting, lint and types (make lint), and make quick"
	@echo "make docs       docs/findings.md, from the manual pages; make lies: docs/lies.md, from a test run"
	@echo "make launch-examples  the files in launch/, from their configs"
	@echo "make figure     docs/nothing-lost.svg: a run that is killed thirty times, and one that is not"
	@echo "make real-data  real weights (SmolLM2-135M) and real Chinese reviews, into real/"
	@echo "make reviews    train those weights on those reviews, and count how many held-out ones are told right"
	@echo "make bench-tables  docs/benchmarks.md and README's table, from benchmarks/data; measures nothing"
	@echo "make clean      remove .venv, caches and runs/demo; other runs and real/ stay"

demo: .venv/.installed
	@tools/demo.sh

serve: .venv/.installed-serve
	@[ -e runs/demo/receipt.json ] || tools/demo.sh
	@$(BIN)/crossfoot serve runs/demo

# The quick tests side by side; then those that start ranks, on two workers (support/dealing.py deals them out).
QUICK := tests/unit tests/findings tests/properties tests/loop
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

ifeq ($(strip $(PYTEST_ARGS)),)
test: quick ranks
else
test: .venv/.installed-test
	@$(PYTEST) $(PYTEST_ARGS)
endif

quick: .venv/.installed-test
	@$(PYTEST) -n auto --dist loadgroup $(QUICK)

ranks: .venv/.installed-test
	@$(PYTEST) -n 2 --dist loadscope --durations=25 $(foreach folder,$(QUICK),--ignore $(folder))

check: lint quick

lint: .venv/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lies: .venv/.installed-test
	@$(PYTEST) -q --lies-table docs/lies.md

docs: .venv/.installed-test
	@$(BIN)/crossfoot explain --all > docs/findings.md

# Each says in its second line how it was made. What this shell has set must not get in.
launch-examples: .venv/.installed
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; unset DS_ACCELERATOR OMP_NUM_THREADS CUDA_VISIBLE_DEVICES; \
	for file in launch/*.sh launch/*.sbatch; do eval "$$(sed -n 's/^# made by: //p' $$file)"; done

figure: .venv/.installed-test
	@CROSSFOOT_FIGURE=docs/nothing-lost.svg $(BIN)/python -m pytest -m slow tests/distributed/test_nothing_lost.py

real-data: .venv/.installed-real
	@$(BIN)/python tools/real_data.py

# A second call goes on where the first was stopped.
reviews: real-data
	@tools/two_ranks.sh configs/smollm2-reviews.yaml --continue auto
	@$(BIN)/python tools/judge_reviews.py runs/smollm2-reviews/adapter

bench-tables: .venv/.installed
	@$(BIN)/python benchmarks/pages.py

# A stamp is written last, so a killed installation leaves none; a changed list of packages makes it old.
.venv/.installed: pyproject.toml constraints.txt tools/install.sh
	@PYTHON="$(PYTHON)" tools/install.sh '[train]'
	@echo "$(CURDIR)" > $@

.venv/.installed-serve: pyproject.toml constraints.txt tools/install.sh
	@PYTHON="$(PYTHON)" tools/install.sh '[train,serve]'
	@echo "$(CURDIR)" > .venv/.installed
	@echo "$(CURDIR)" > $@

.venv/.installed-test: pyproject.toml constraints.txt tools/install.sh
	@PYTHON="$(PYTHON)" tools/install.sh '[train,test]'
	@echo "$(CURDIR)" > .venv/.installed
	@echo "$(CURDIR)" > $@

.venv/.installed-real: tools/real_data.txt .venv/.installed
	@PYTHON="$(PYTHON)" tools/install.sh real
	@echo "$(CURDIR)" > $@

clean:
	rm -rf .venv runs/demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
