# `make install` and `make test` need only Python 3.11 or newer; both can be repeated at no cost.
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
PYTHON  ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
             $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install test demo bench studies lint format clean

install: $(STAMP)

# torch comes first and alone: resolved together with the rest, some indexes offer a build with gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer was not found; install it or run make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,siesta]'
	touch $@

# One thread in each of as many processes as there are cores.
test: install
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=8 $(PYTEST_ARGS)

demo: install
	$(BIN)/nearsight demo

# REFERENCE: the folder with reference/ and structures/; without it the benches that compare with other programs are left out.
bench: install
	$(BIN)/python bench/planewave.py
	$(BIN)/python bench/derivatives.py $(if $(REFERENCE),--reference $(REFERENCE)/reference)
	$(BIN)/python bench/variational.py
	$(BIN)/python bench/magnetism.py
	$(BIN)/python bench/step_cost.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/step_parts.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/memory.py
	$(BIN)/python bench/scaling.py
	$(BIN)/python bench/network_speed.py
	$(BIN)/python bench/energy_step.py
	$(BIN)/python bench/scf_speed.py $(if $(REFERENCE),--siesta $(REFERENCE)/reference)
	$(if $(REFERENCE),$(BIN)/python bench/siesta.py $(REFERENCE)/reference/siesta)
	$(if $(REFERENCE),$(BIN)/python bench/properties.py $(REFERENCE)/reference/siesta)
	$(if $(REFERENCE),$(BIN)/python bench/overlap.py $(REFERENCE)/reference/siesta)
	$(if $(wildcard $(REFERENCE)/external),$(BIN)/python bench/formats.py $(REFERENCE)/external $(REFERENCE)/reference/siesta)
	$(if $(wildcard $(REFERENCE)/external),$(BIN)/python bench/damage.py $(REFERENCE)/external $(REFERENCE)/reference/siesta)
	$(if $(wildcard $(REFERENCE)/external),$(BIN)/python bench/convert.py $(REFERENCE)/external)
	$(if $(REFERENCE),$(BIN)/python bench/eos.py $(REFERENCE)/structures/acwf)
	$(if $(REFERENCE),$(BIN)/python bench/network_accuracy.py --reference $(REFERENCE)/reference)

# Networks trained on the energy (docs/studies/nn-dft.md): about three and a half hours on one core.
studies: export OMP_NUM_THREADS := 1
studies: install
	for name in h2o-single graphene-single mos2 na lambda graphene-many h2o-many; do $(BIN)/python studies/$$name/run || exit 1; done
	$(BIN)/python bench/scf_start.py studies/h2o-many/out/energy studies/data/h2o-test --first 40 --limit 60 --name h2o-many-energy
	$(BIN)/python bench/scf_start.py studies/graphene-many/out/model studies/data/graphene-test --name graphene-many

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
