# mgm-dali. On Linux with Python 3.10 or newer, `make demo` and `make test` are all there is to it:
# they make .venv, install into it what the machine can use, and run. A second call reuses it.
# PYTHON names another interpreter, VENV another folder, OUT where the demo goes,
# VIDEOS the files and folders that `make bench` measures on, PEERS where it installs what it
# compares with, BENCH where its numbers go; QUICK=1 makes it short.

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
VIDEOS ?=
PEERS ?= .peers
BENCH ?= bench-numbers
QUICK ?=
BENCH_OPTIONS =
OWN_VIDEOS = $(if $(VIDEOS),--videos $(VIDEOS))
BENCHES = motion estimates loader masking mask-merit model end-to-end feeding scaling manifest
READY = $(VENV)/ready

.PHONY: demo test test-slow test-gpu check format bench $(BENCHES:%=bench-%) bench-page pictures \
	wheel clean

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

# One after the other, as they would disturb one another; one that fails does not stop the others.
bench: $(READY)
	@failed=; \
	for name in $(BENCHES); do $(MAKE) bench-$$name || failed="$$failed $$name"; done; \
	$(MAKE) bench-page || failed="$$failed page"; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

$(BENCHES:%=bench-%): bench-%: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python benchmarks/$(subst -,_,$*).py $(BENCH_OPTIONS) \
		$(if $(QUICK),--quick) --json $(BENCH)/$(subst -,_,$*).json

bench-motion bench-loader bench-end-to-end: BENCH_OPTIONS = --peers $(PEERS) $(OWN_VIDEOS)
bench-estimates bench-feeding: BENCH_OPTIONS = $(OWN_VIDEOS)

bench-page: $(READY)
	$(VENV)/bin/python benchmarks/page.py --numbers $(BENCH) --page docs/performance.md \
		$(subst -,_,$(BENCHES))

pictures: $(READY)
	$(VENV)/bin/python benchmarks/mask_pictures.py

wheel: $(READY)
	$(VENV)/bin/pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info

$(READY): setup.cfg pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) VENV=$(VENV) scripts/setup.sh
	touch $@
