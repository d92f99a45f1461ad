# Two commands matter: `make repro` and `make test`. Both set up the environment from requirements.lock on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro plan smoke study rehearsal browse report publish survey quick test check lint audit

setup: $(VENV)/.done

$(VENV)/.done: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

repro: setup
	python -m stages.tools.check
	ANSWER_LATER=1 dvc repro
	@python -m stages.evaluation.answer results/eval.json
	@git diff --quiet -- dvc.lock || printf '\n%s\n' "dvc.lock and results/ are your run's now: git commit --all --message 'My run' keeps it to come back to and with."
	@echo "make report writes it up, make browse shows its trees; data/failed/ holds what a model would not answer."

plan: setup
	python -m stages.tools.plan $(if $(PRESET),--preset $(PRESET)) $(foreach change,$(S),-S '$(change)')

smoke: setup
	dvc exp run --name smoke $$(python -m stages.tools.preset smoke)

# experiments in folders of their own, so that the workspace stays; killed and started again, it goes on with what it has
study: setup
	ANSWER_LATER=1 python -m stages.tools.study
	@python -m stages.evaluation.answer docs/results/eval.json

rehearsal: setup
	python -m benchmarks.rehearsal

browse: setup
	python -m stages.tools.browse --out results/browse.html $(if $(TREES),--trees $(TREES))

report: setup
	python -m stages.tools.report $(if $(AGAINST),--against $(AGAINST))

# dry without PUSH=1: writes results/publish and says what is missing
publish: setup
	python -m stages.tools.publish $(REPO) $(if $(PUSH),--push) $(if $(PRIVATE),--private) \
	  $(if $(LICENSE),--license $(LICENSE)) $(if $(DATA_LICENSE),--data-license $(DATA_LICENSE))

survey: setup
	python -m stages.tools.survey $(if $(N),--pairs $(N)) $(if $(PERSONA),--persona) $(if $(TREES),--trees $(TREES)) \
	  $(if $(ARMS),--arms $(ARMS))

# what has no whole pipeline, no real model and no git: for daily work
quick: setup
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# a file each for three processes: whole pipelines wait for subprocesses half of the time
test: setup
	python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: setup
	ruff check .
	ruff format --check .
	mypy

audit: setup
	python .ci/audit.py requirements.lock

check: lint audit
	python -m stages.tools.check
	@stale=$$(dvc repro --dry --allow-missing 2>&1 | grep -E "^Running stage|ERROR" || true); \
	if [ -n "$$stale" ]; then echo "dvc.lock is stale:"; echo "$$stale"; exit 1; fi
