# make real | demo | test | quick | demo-check | cluster | last | check | soak | bench | stand-ins | clean: each makes .venv first where it is missing or out of date.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: real demo test quick demo-check cluster last check soak bench stand-ins clean

real: $(INSTALLED)  ## human speech to text, with the adapter that comes with the project
	$(BIN)/python -m recipes.real_pair

demo: $(INSTALLED)  ## speech in, adapter out, WER falling
	$(BIN)/python -m recipes.demo

# The slowest files start first; a file's tests stay on one worker, as they share trained models. Three workers on two
# cores, as many tests mostly wait.
THREE := -n 3 --dist loadfile --no-loadscope-reorder
LONGEST := $(patsubst %,tests/test_%.py,newcomer readme pairs)
LONGEST += $(patsubst %,tests/train/test_%.py,launcher_faults damage training faults)
LONGEST += tests/train/liveness/test_watchdog.py tests/launch/test_plan_simulation.py tests/launch/test_launch_verbs.py
test: $(INSTALLED)  ## every test but those of `make last`
	$(BIN)/python -m pytest $(THREE) --ignore=tests/cluster $(LONGEST) tests/launch tests/train tests

quick: $(INSTALLED)  ## every test that takes no training: about a minute
	$(BIN)/python -m pytest $(THREE) -m "not slow" tests --ignore=tests/cluster

demo-check: $(INSTALLED)  ## the full demo, and a check of its word error rates: about five minutes
	SLAM_ASR_WHOLE_DEMO=1 $(BIN)/python -m pytest tests/test_demo.py

cluster: $(INSTALLED)  ## the tests on a real Slurm, two real hosts, a real Prometheus and a real Chromium; .ci/run says which packages
	SLAM_ASR_CLUSTER=1 $(BIN)/python -m pytest $(THREE) tests/cluster/test_slurm.py tests/cluster

last: $(INSTALLED)  ## cluster and demo-check side by side, as the first mostly waits: what .ci/run ends with
	SLAM_ASR_CLUSTER=1 SLAM_ASR_WHOLE_DEMO=1 $(BIN)/python -m pytest $(THREE) \
		tests/test_demo.py tests/cluster/test_slurm.py tests/cluster

check: $(INSTALLED)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

KILLS ?= 50
soak: $(INSTALLED)  ## kill a training at random, KILLS times, and compare what becomes of it: some five minutes
	$(BIN)/python -m tests.soak --kills $(KILLS)

bench: $(INSTALLED)  ## speed and cost against baselines, some twelve minutes
	$(BIN)/python -m bench

stand-ins: $(INSTALLED)  ## make model/stand_in again: some two hours on two cores, resumable
	$(BIN)/python -m recipes.stand_in.encoder --out model/stand_in/encoder --work build/stand_in
	$(BIN)/python -m recipes.stand_in.llm --out model/stand_in/llm --work build/stand_in
	$(BIN)/python -m recipes.demo
	rm -rf model/stand_in/adapter
	$(BIN)/slam-asr export runs/demo/run/train model/stand_in/adapter

clean:  ## remove .venv and caches; runs/ and build/stand_in, which took time, stay
	rm -rf .venv build/lib build/bdist.* slam_asr.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): setup.py pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; install Python 3.11, or say PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-input -c constraints.txt -e '.[dev,synth]'
	touch $@
