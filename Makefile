# make train   trains FPO on a MuJoCo task on this machine's CPU; ARGS="task=PointMass seed=1" passes overrides
# make test    runs the tests, on every core; ARGS="-n 0 tests/modules" chooses some, in one process
# make gridworld   trains FPO and a Gaussian on GridWorld and draws both; LAYOUT=cshape chooses another of its worlds, ARGS="seed=1" other luck
# make slurm   installs SLURM on this Debian or Ubuntu machine, for make test ARGS="-m slurm"
# make check   runs linter, formatter and type checker
# make wheel   builds the wheel and tries it in clean environments with the lowest and the newest torch
# make docs    builds the documentation into site/; a broken link or reference is an error
# Each command creates .venv and installs what it needs first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
LAYOUT ?= two_walls

.PHONY: train gridworld test slurm check docs wheel install clean

train: install
	$(BIN)/fpo-train $(ARGS)

# Both at once, one on each core; what the Gaussian prints is shown if it fails.
gridworld: install
	@out=runs/gridworld_$$(date +%Y-%m-%d_%H-%M-%S); mkdir -p $$out; \
	$(BIN)/fpo-train experiment=gridworld_ppo seed=500 task=gridworld/$(LAYOUT) $(ARGS) run_dir=$$out/ppo progress=false \
		>$$out/ppo.log 2>&1 & gaussian=$$!; \
	trap 'kill $$gaussian 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/fpo-train experiment=gridworld seed=500 task=gridworld/$(LAYOUT) $(ARGS) run_dir=$$out/fpo && \
	{ wait $$gaussian || { cat $$out/ppo.log; exit 1; }; } && \
	$(BIN)/fpo-gridworld $$out/fpo $$out/ppo --out $$out

# A worker for each core; the tests of a file stay together, as they share what one of them trains.
test: install
	$(BIN)/pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile $(ARGS)

slurm:
	apt-get update && apt-get install --yes slurmctld slurmd slurm-client

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: install
	$(BIN)/mkdocs build --strict

wheel: install
	$(BIN)/pytest -m slow tests/test_wheel.py $(ARGS)

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
