# make train   creates .venv, installs the pinned dependencies, builds the extension, and trains
# make test    the linters and the tests, in the same environment; a quarter of an hour at most on two cores
# make test-slow   the tests that are slow and rarely break: kernels under an interpreter, kills, wheels, frames
# make bench   what is fast here, as ratios in one run beside its peers, which it installs
# make gpu     what a card is asked first: tests, kernels, tiles, a run that goes on, steps a second; each at most ten
#              minutes. It goes on where it was stopped, and ends with status 2 where there is no card
# make docs    the documentation as a site, in build/site
# make wheel   a wheel for this Python and the source archive, in dist/
# make sanitize   the C++ engine's own test under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer; it
#              needs a compiler and cmake, and no Python
#
#   PYTHON       the interpreter that .venv is made with (3.11, 3.12 or 3.13)
#   ARGS         passed on to `lsp-fast train`, e.g. ARGS="--task walker_walk --env-steps 3000 --logdir runs/x"
#   BENCH_ARGS   passed on to benchmarks/run.py, e.g. BENCH_ARGS="envs --threads 1 --out benchmarks/results/NAME.json"
#   GPU_ARGS     passed on to benchmarks/gpu/first_hour.py, e.g. GPU_ARGS="--only kernels" or GPU_ARGS=--list
#   WHEELS       folder of benchmarks/gpu/pack.py: `make gpu` then installs nothing and runs PYTHON, which has PyTorch
#   TEST_ARGS    passed on to pytest, e.g. TEST_ARGS="tests/envs -x"
#   TORCH_INDEX  a package index to take torch from; set it to one with CPU wheels where the default index offers CUDA
#                builds only (several GB)

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=
WHEELS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
# dm_control's labmaze has no wheel for Python 3.13, and nothing here asks for mazes.
ALONE = @$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))' || exit 0; \
	$(PIP) install -c constraints.txt --no-deps dm_control
NATIVE := $(wildcard csrc/*.cpp csrc/*.hpp csrc/*/*.cpp csrc/*/*.hpp csrc/*/*.inl)

.PHONY: train test test-slow bench gpu gpu-seen docs wheel sanitize lint install clean
.DELETE_ON_ERROR:

train: .venv/.installed
	$(BIN)/lsp-fast train --preset cpu $(ARGS)

test: lint
	$(BIN)/python -m pytest -q -m "not slow" $(TEST_ARGS)

test-slow: .venv/.installed
	$(BIN)/python -m pytest -q -m slow $(TEST_ARGS)

bench: .venv/.peers
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

# A peer that cannot be installed shows in the table, with the reason.
.venv/.peers: .venv/.installed
	$(PIP) install -c constraints.txt -e '.[bench]' || echo "WARNING: some peers are not there (see above)." >&2
	@touch $@

# A machine without a card is not made to install PyTorch first.
gpu: gpu-seen $(if $(WHEELS),,.venv/.installed)
	$(if $(WHEELS),$(PYTHON),$(BIN)/python) benchmarks/gpu/first_hour.py $(if $(WHEELS),--wheels $(WHEELS)) $(GPU_ARGS)

gpu-seen:
	@ls /dev/nvidia[0-9]* >/dev/null 2>&1 || test -e /dev/dxg || command -v nvidia-smi >/dev/null || { echo \
		"make gpu: no NVIDIA GPU is seen (no /dev/nvidia0, no nvidia-smi); run it on a machine with one" >&2; exit 2; }

docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

# Without isolation: what it builds with is in .venv.
wheel: .venv/.installed
	rm -rf build/wheel
	$(PIP) wheel --no-deps --no-build-isolation -w build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair -w dist build/wheel/*.whl
	$(BIN)/python -c 'from setuptools import build_meta; print("dist/" + build_meta.build_sdist("dist"))'

# ThreadSanitizer does not know every layout that randomised addresses can give a program.
sanitize: CMAKE = $(or $(shell command -v cmake),$(wildcard $(BIN)/cmake),cmake)
sanitize: ENGINE_TEST = $(CMAKE) -S . -DLSP_FAST_ENGINE_TEST=ON
sanitize:
	$(ENGINE_TEST) -B build/sanitize-address -DLSP_FAST_SANITIZE=address,undefined
	$(CMAKE) --build build/sanitize-address
	$(ENGINE_TEST) -B build/sanitize-thread -DLSP_FAST_SANITIZE=thread
	$(CMAKE) --build build/sanitize-thread
	ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 build/sanitize-address/engine_test
	fixed="setarch $$(uname -m) -R"; $$fixed true 2>/dev/null || fixed=; \
		TSAN_OPTIONS=halt_on_error=1 $$fixed build/sanitize-thread/engine_test

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

install: .venv/.installed

# Debian's python3 comes without ensurepip; pip itself can fill such an environment.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
		"Python 3.11 to 3.13 is needed, and $(PYTHON) is %d.%d; try: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv && \
		$(PYTHON) -m pip --python .venv/bin/python install pip; }

# torch comes first: from its own index if one is named, and by the exact version, for which that index may hold another
# build than the default one. The stamp is what keeps a second run from installing again.
.venv/.installed: pyproject.toml constraints.txt setup.py CMakeLists.txt $(NATIVE) | .venv/bin/python
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install -c constraints.txt -e '.[dev]'
	$(ALONE)
	@$(BIN)/python -c 'from lsp_fast.backends import cpp; cpp.load()' || \
		echo "WARNING: the native extension is not there (see above); training goes on with the reference backend." >&2
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	rm -f lsp_fast/_native*.so lsp_fast/_native_build.log
