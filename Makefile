# mgm-dali. On Linux with Python 3.10 or newer, `make demo` and `make test` are all there is to it:
# they make .venv, install into it what the machine can use, and run. A second call reuses it.
# PYTHON names another interpreter, VENV another folder, OUT where the demo goes,
# VIDEOS the files and folders that `make bench` measures on, PEERS where it installs what it
# compares with.

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
VIDEOS ?=
PEERS ?= .peers
READY = $(VENV)/ready

.PHONY: demo test test-slow test-gpu check format bench bench-motion bench-loader bench-masking \
	bench-merit bench-model pictures wheel clean

demo: $(READY)
	$(VENV)/bin/mgm-dali demo --out $(OUT)

test: check
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)
	$(VENV)/bin/python -m pytest -m slow

test-gpu: $(READY)
	MGM_REQUIRE_GPU=1 $(VENV)/bin/python -m pytest -m gpu

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: bench-motion bench-loader

bench-motion: $(READY)
	$(VENV)/bin/python benchmarks/motion.py --peers $(PEERS) $(if $(VIDEOS),--videos $(VIDEOS))

bench-loader: $(READY)
	$(VENV)/bin/python benchmarks/loader.py --peers $(PEERS) $(if $(VIDEOS),--videos $(VIDEOS))

bench-masking: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python benchmarks/masking.py

bench-merit: $(READY)
	$(VENV)/bin/python benchmarks/mask_merit.py

bench-model: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python benchmarks/model.py

pictures: $(READY)
	$(VENV)/bin/python benchmarks/mask_pictures.py

wheel: $(READY)
	$(VENV)/bin/pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info

$(READY): setup.cfg pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) VENV=$(VENV) scripts/setup.sh
	touch $@
