# Commands for people and for CI. Every target installs what it needs into .venv first.
#
#   make demo       a generated chest reconstructed four ways, into runs/demo
#   make test       the tests that need neither GPU nor network
#   make test-gpu   the tests that need a CUDA device
#   make test-slurm the tests that need SLURM: one node of its own in a temporary folder
#   make bench      speed, as ratios against peers measured in the same run
#   make bench-gpu  the same on a CUDA device: kernels, peers, whole reconstructions, into benchmarks/results
#   make lint       ruff, format check included; `make format` applies the format
#   make docs       the documentation site, into site/
#   make clean      remove build products and caches (not .venv, not runs)
#
# To use an interpreter that has everything already:  make test-gpu DIFFNR_NO_INSTALL=1 PYTHON=python3

SHELL := /bin/bash
VENV := .venv
BOOTSTRAP_PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
# Tests of one file share what they made; two processes keep two cores busy.
PYTEST_WORKERS ?= 2

ifeq ($(DIFFNR_NO_INSTALL),1)
PYTHON ?= python3
# The package is the one that lies here, for scripts of benchmarks too.
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
INSTALLED :=
BENCH_INSTALLED :=
DOCS_INSTALLED :=
else
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
DOCS_INSTALLED := $(VENV)/.installed-docs
endif

# Two OpenMP pools live in one process (torch's and numba's); spinning threads starve each other.
export OMP_WAIT_POLICY ?= PASSIVE
export NUMBA_CACHE_DIR ?= $(CURDIR)/.numba_cache
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test test-gpu test-slurm slurm bench bench-gpu lint format docs clean

install: $(INSTALLED)

# Of a folder that was not made to its end nothing stays, so that the next call begins anew.
$(VENV)/bin/python:
	@$(BOOTSTRAP_PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v[:2] <= (3, 13) or sys.exit( \
		"$(BOOTSTRAP_PYTHON) is Python %d.%d; 3.10 to 3.13 are expected: add BOOTSTRAP_PYTHON=python3.13, or where one of them lies." % v[:2])'
	$(BOOTSTRAP_PYTHON) -m venv $(VENV) || { rm -rf $(if $(wildcard $(VENV)/*),$@,$(VENV)); exit 1; }

# torch goes first and alone: its exact pin then picks the build that the configured index prefers
# (a CPU wheel where one is offered, the CUDA wheel elsewhere) before anything else depends on it.
$(VENV)/.installed: setup.cfg constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m pip install $(PIP_FLAGS) -c constraints.txt "torch==2.13.0"
	$(PYTHON) -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PYTHON) -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[bench]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PYTHON) -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[docs]"
	touch $@

demo: $(INSTALLED)
	$(PYTHON) -m diffnr_lightning.cli demo --out runs/demo

# One thread of torch in each process: two that share two cores take twice the processor time for small networks.
test: export OMP_NUM_THREADS ?= 1
test: $(INSTALLED)
	$(PYTHON) -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_FLAGS)

# A file that cannot be imported, as for want of a package that no GPU is needed for, does not stop the others.
test-gpu: $(INSTALLED)
	$(PYTHON) -m pytest -m gpu --continue-on-collection-errors $(PYTEST_FLAGS)

test-slurm: slurm $(INSTALLED)
	$(PYTHON) -m pytest -m slurm tests/cluster $(PYTEST_FLAGS)

# The programs alone: the package's own daemons are not started.
slurm:
	@PATH="$$PATH:/usr/sbin" type slurmctld slurmd munged sbatch > /dev/null 2>&1 || { \
		echo "installing slurm-wlm and munge"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends slurm-wlm munge; } > /dev/null 2>&1 || { \
			echo "SLURM is not here and cannot be installed from here; apt-get install slurm-wlm munge (Debian, Ubuntu; as root) brings it."; \
			exit 1; }; }

bench: $(BENCH_INSTALLED)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(PYTHON) $$script; done

bench-gpu: $(INSTALLED)
	$(PYTHON) benchmarks/gpu/everything.py

lint: $(INSTALLED)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(INSTALLED)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=true $(PYTHON) -m mkdocs build --quiet --strict

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .numba_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
