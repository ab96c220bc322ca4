# Everything a user or a contributor runs. Works on a fresh machine with Python 3.11 or newer.
SHELL  := /bin/bash
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUN    := $(BIN)/python

.PHONY: help install demo test lint unit parts faults accuracy transfer bench clean

help:            ## what there is to run
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## environment with overseg and its tested packages

$(STAMP): pyproject.toml constraints.txt
	@deploy/python.sh $(PYTHON) $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,hpc]'
	$(RUN) -m overseg.warm
	@touch $(STAMP)

demo: install    ## a realistic volume with known splits, corrected in place, scored
	$(RUN) -m overseg.demo demo

test: lint unit parts ## the whole test suite, in parts with their own time budgets

lint: install
	$(BIN)/ruff check overseg tests benchmarks
	$(BIN)/ruff format --check overseg tests benchmarks
	$(BIN)/mypy

unit: install    ## kernels, rooms, refusals: under 10 minutes
	timeout 600 $(RUN) -m pytest -q -m "not cluster and not fault and not accuracy" tests overseg

parts: install   ## real processes, a real SLURM, faults, real volumes
	timeout 600 $(RUN) -m pytest -q -m "cluster and not fault and not slurm" tests
	deploy/slurm/test-cluster.sh run timeout 600 $(RUN) -m pytest -q -m "slurm" tests
	timeout 900 $(RUN) -m pytest -q -m "fault" tests
	timeout 600 $(RUN) -m pytest -q -m "accuracy and not cluster and not fault" tests

accuracy: install ## benchmarks/accuracy.md, from the real volumes
	$(RUN) -m benchmarks.touching
	$(RUN) -m benchmarks.accuracy
	$(RUN) -m benchmarks.paper

transfer: install ## benchmarks/transfer.md: left-out tissue beside other learners; trees where scikit-learn is there
	$(RUN) -m benchmarks.transfer
	$(RUN) -m benchmarks.interpolation
	$(RUN) -m benchmarks.broken_layer

bench: install   ## benchmarks/README.md: speed and memory; half an hour, 6 GB of disk, a quiet machine
	$(RUN) -m benchmarks.run

faults: install  ## benchmarks/faults.md: kills, full disks, lost schedulers; about 80 minutes
	deploy/slurm/test-cluster.sh run $(RUN) -m benchmarks.faults

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
