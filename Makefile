# Everything a fresh clone needs. `make` alone lists the commands; GNU make 3.81 (macOS) is enough.

PYTHON  ?= python3
WORKERS ?= 2
PROFILE ?= default
TIMEOUT ?= 60

UV    := uv==0.13.8
VENV  := .venv
PY    := $(VENV)/bin/python
SAGE  := $(VENV)/bin/sage
# Two stages: SAGE with the embedded models; every extra, and what checks and measures it.
RUN   := $(VENV)/.installed
ALL   := $(VENV)/.installed-all
PIP   := $(PY) -m pip install --quiet --no-input --disable-pip-version-check
COMPILE = build/lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest \
	--only-binary :all: --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --quiet
TEST   = $(PY) -m pytest --hypothesis-profile=$(PROFILE) --timeout=$(TIMEOUT)

# The stamps hold the folder they were made in: in a clone that was moved or copied, install again.
ifneq "$(shell cat $(RUN) 2>/dev/null)" "$(CURDIR)"
.PHONY: $(RUN) $(ALL)
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: $(shell awk -F: '/^[a-z-]+:/ { print $$1 }' Makefile)

help: ## print this list
	@echo "make COMMAND [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

install: $(ALL) ## make .venv with SAGE, every extra and the tools, at locked versions

models: $(RUN) ## fetch the two built-in models (180 MB, once)
	@$(SAGE) models pull

demo: models ## answer questions about Python's standard library on this machine; ARGS='--ask "..."'
	@$(SAGE) demo $(ARGS)

test: $(ALL) models ## run the tests; ARGS="tests/graph -k plan" narrows
	$(TEST) -n $(WORKERS) --dist loadfile $(ARGS)

check: PROFILE = check
check: TIMEOUT = 600
check: sizes lint types test ## what CI runs: formatter, linter, strict types, tests with 2,000 examples a property

lint: $(ALL)
	$(PY) -m ruff format --check
	$(PY) -m ruff check

types: $(ALL)
	$(PY) -m mypy

sizes: $(ALL)
	@$(PY) tests/test_layout.py

format: $(ALL) ## format the code and mend what the linter can
	$(PY) -m ruff format
	$(PY) -m ruff check --fix

docs: $(ALL) ## write into docs/ what can be read off the code: the command line, tables
	$(PY) docs/generate.py

soak: PROFILE = soak
soak: TIMEOUT = 7200
soak: $(ALL) ## run for long: 50,000 new examples of each property, 50 nodes killed, and 100,000 random worlds
	$(TEST) -m "hypothesis or ray" -n $(WORKERS) $(ARGS)
	$(PY) benchmarks/worlds.py --out results/worlds/worlds.json

test-vllm: TIMEOUT = 600
test-vllm: $(ALL) models ## run the vLLM tests: VLLM=URL of a server, or VLLM=DIR whose `serve PORT` starts one
	@test -n "$(VLLM)" || { echo >&2 "say which server: make test-vllm VLLM=http://127.0.0.1:8000/v1"; exit 2; }
	$(TEST) -m vllm "--vllm=$(VLLM)" $(ARGS)

bench-all: $(ALL) models ## record the paper's experiments and make their report; an hour, results/experiments, build/report
	$(PY) benchmarks/experiments.py $(ARGS)

bench-agents: $(ALL) models ## how agents behave, on the sets in AGENTS=DIR, and with LLM=ADDRESS by a model too; hours, results/agents
	@test -n "$(AGENTS)" || { echo >&2 "say where the sets are: make bench-agents AGENTS=DIR"; exit 2; }
	$(PY) benchmarks/agents.py "$(AGENTS)" $(if $(LLM),--llm "$(LLM)") $(ARGS)

bench-overhead: $(ALL) ## what SAGE itself costs, beside asyncio written by hand; 4 minutes, results/overhead/DATE
	$(PY) benchmarks/overhead.py --out results/overhead/$$(date -u +%F)/overhead.json $(ARGS)

bench-replay: $(ALL) ## how true a replay is: the same jobs run, and replayed, under five policies (2 min)
	@mkdir -p results/replay
	$(PY) benchmarks/replay.py --out results/replay/replay.json >/dev/null

bench-ray: $(ALL) ## SAGE on Ray beside actors in a chain, Ray Data and Ray Serve; 20 minutes, results/ray/DATE
	@test -x .venv-ray/bin/sage || { "$(PYTHON)" -m venv .venv-ray && .venv-ray/bin/python -m pip install -q \
		"ray[data,serve]==$$($(PY) -c 'from importlib.metadata import version; print(version("ray"))')" -e .; }
	.venv-ray/bin/python benchmarks/ray_nodes.py --memory 1000000 --out results/ray/$$(date -u +%F)/ray.json $(ARGS)

bench-peers: $(ALL) ## SAGE beside LangGraph, Haystack, LlamaIndex, Ray, …; 15 minutes, results/peers
	$(PY) benchmarks/peers/run.py --out results/peers $(ARGS)

bench-decisions: $(ALL) ## what a scheduling decision costs, against queue, tenants and endpoints; 5 minutes, results/decisions/DATE
	$(PY) benchmarks/decision_curves.py --out results/decisions/$$(date -u +%F) $(ARGS)

bench-simulated: $(ALL) ## simulated tasks per second, and a million tasks on a thousand endpoints; results/simulated/DATE
	$(PY) benchmarks/simulated.py --large --out results/simulated/$$(date -u +%F)/simulated.json $(ARGS)

bench-load: $(ALL) ## how much load the load generator makes, and how true its figures are; 4 minutes
	$(PY) benchmarks/load_generator.py --out results/load_generator/$$(date -u +%F)/load_generator.json $(ARGS)
	$(PY) benchmarks/instrument.py --out results/instrument/$$(date -u +%F)/instrument.json

bench-crosscheck: $(ALL) ## guidellm and aiperf beside SAGE on one server, each in an environment of its own; 10 minutes
	$(PY) benchmarks/crosscheck/run.py --out results/crosscheck $(ARGS)

bench-fidelity: $(ALL) ## 2,000 jobs simulated, and measured over HTTP; 3 minutes, results/fidelity/DATE
	$(PY) benchmarks/fidelity.py --out results/fidelity/$$(date -u +%F)/http.json $(ARGS)

bench-stream: $(ALL) ## windows and joins of streams, beside Bytewax; 3 minutes, results/stream/DATE
	$(PY) benchmarks/stream_windows.py --out results/stream/$$(date -u +%F)/stream.json $(ARGS)

examples: models ## run the ten pipelines of examples/ on the embedded models; ARGS="04_agent --records 1" narrows
	$(PY) examples/run_ten.py $(ARGS)

lock: ## write requirements/*.txt anew from pyproject.toml; UPGRADE=--upgrade takes the newest versions
	@"$(PYTHON)" -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(COMPILE) --all-extras --group dev --output-file requirements/lock.txt $(UPGRADE)
	$(COMPILE) --extra local --group build --constraint requirements/lock.txt --output-file requirements/run.txt $(UPGRADE)

clean: ## remove .venv and everything built here; models, indexes and runs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(RUN): requirements/run.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo >&2 "no $(PYTHON) here: install Python 3.11 or newer, or say where it is: make PYTHON=/path/to/python3"; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("SAGE needs Python 3.11 or newer, $(PYTHON) is %d.%d: say which, such as make PYTHON=python3.12" % sys.version_info[:2])'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || "$(PYTHON)" -c 'import sys; sys.exit("$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt-get install python%d.%d-venv" % sys.version_info[:2])'
	@echo "installing SAGE and what it runs on into $(VENV) (half a minute, once)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(PIP) --require-hashes --only-binary :all: -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@echo "$(CURDIR)" > $(RUN)

$(ALL): $(RUN) requirements/lock.txt
	@echo "installing the extras and the tools into $(VENV) (a minute or two, once)"
	@$(PIP) --require-hashes --only-binary :all: -r requirements/lock.txt
	@echo "$(CURDIR)" > $(ALL)
