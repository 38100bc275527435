# `make demo` and `make test` need nothing but make and a Python >= 3.11; `make help` lists the rest.
#
# What is tested is what is installed: a wheel is built from the tree and installed in .venv, never linked to it.
# A stamp in .venv/.stamps stands for a step that was finished, so an interrupted one is begun again, a finished one is
# not, and an edit under src builds and installs anew without asking the network for anything.

.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
.SUFFIXES:

# -- which Python ---------------------------------------------------------------------------------------------------
PYENV_VERSIONS := $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.1[1-9]*/bin/python3)
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14 python $(PYENV_VERSIONS)
# The first of these, or of $(2), that answers, is at least $(1) and can make a venv (Debian keeps that in python3-venv).
find-python = $(shell for p in $(2) $(CANDIDATES); do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < $(1))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

ifndef PYTHON
PYTHON := $(call find-python,(3, 11))
endif
VERSION := $(shell "$(PYTHON)" -c 'import platform; print(platform.python_version())' 2>/dev/null)

# -- where things are -----------------------------------------------------------------------------------------------
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMPS := $(VENV)/.stamps
TOOLS := $(VENV)/build-tools
SOURCES := $(shell find src -name '*.py' -o -name '*.pxd' -o -name '*.pyi' -o -name py.typed \
	-o -path 'src/mempool/shared/*.[ph]*' -o -path 'src/mempool/web/*') \
	$(shell find src -mindepth 1 -type d -not -name __pycache__ -not -name '*.egg-info') \
	$(wildcard benchmarks/*.py) setup.py pyproject.toml README.md LICENSE
PIP := $(PY) -m pip --disable-pip-version-check --no-input -q
export PIP_DEFAULT_TIMEOUT ?= 180
export PIP_RETRIES ?= 10
unexport PYTHONDONTWRITEBYTECODE  # set in many containers, and each worker of pytest would compile all tests anew
PYTEST := $(PY) -m pytest

.PHONY: help demo test long oldest-dask ci dev check coverage stress stress-ft stress-ft-here races-ft races-ft-here bench verify verify-here verify-ordering verify-long verify-shared fuzz-shared soak-shared mutate mutate-here memcheck docs site-check clean print-python

help:
	@echo "make demo     run the main job: hash a tree of files while memory runs out"
	@echo "make test     the tests, on the compiled and on the pure core, with a sample of each long sweep"
	@echo "make long     the same with the whole sweeps"
	@echo "make oldest-dask the tests of fleets with the oldest release of distributed that is supported"
	@echo "make dev      some tests of src as it stands, in seconds: ARGS=tests/test_x.py says which"
	@echo "make ci       the gate: all of this on every Python there is, and what a release is made of"
	@echo "make check    ruff, mypy, pyright and the tidy test"
	@echo "make coverage which lines the tests reach, as pages in build/coverage"
	@echo "make stress   minutes of threads against resizers"
	@echo "make stress-ft the same without the GIL, on a Python that .ci/free-threaded makes"
	@echo "make races-ft the same under ThreadSanitizer, on an interpreter that was built with it"
	@echo "make bench    measure beside everything else there is, and draw the plots of the docs"
	@echo "make verify   search the schedules (Python 3.12, else newer), run the Spin model where spin is installed"
	@echo "make verify-ordering every order of memory accesses of SharedPool's protocol"
	@echo "make verify-long the largest model of SharedPool in Spin, as far as MINUTES=60 go"
	@echo "make verify-shared each bug that SharedPool's transactions must not have, planted, and who sees it"
	@echo "make fuzz-shared SECONDS=300 of a fuzzer guided by coverage, over all that reads the file of a SharedPool"
	@echo "make soak-shared SECONDS=1800 of processes that do everything with a SharedPool, and are killed and stopped"
	@echo "make mutate   plant bugs and see that the tests catch them"
	@echo "make memcheck buffers, leases, threads that wait, forks and shared pools under valgrind: ARGS=shared for those alone"
	@echo "make docs     build the documentation"
	@echo "make site-check looks at it in Chromium, as wide as a telephone and as a laptop"
	@echo "make clean    remove what the others made"
	@echo "PYTHON=/path/to/python chooses the interpreter, VENV=dir where to install"

# -- steps ----------------------------------------------------------------------------------------------------------
# The version is part of the name: another Python begins a new .venv, and with it every other step.
$(STAMPS)/python-$(VERSION):
	@test -n "$(VERSION)" || { echo "mempool needs Python >= 3.11 with its venv module (Debian: apt-get install python3-venv)," \
		"and found none; name one with PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mempool needs Python >= 3.11; $(PYTHON) is $(VERSION)" >&2; exit 1; }
	@echo "making $(VENV) with Python $(VERSION)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Beside the venv and not in it: the tests then see what a user has, and a user has no Cython.
$(STAMPS)/build-tools: pyproject.toml | $(STAMPS)/python-$(VERSION)
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		> $(TOOLS).wanted
	@cmp -s $(TOOLS).wanted $(TOOLS).installed || { \
		echo "installing what the build needs"; \
		rm -rf $(TOOLS); \
		$(PIP) install --no-compile --target $(TOOLS) -r $(TOOLS).wanted; \
		cp $(TOOLS).wanted $(TOOLS).installed; }
	@touch $@

$(STAMPS)/mempool: $(SOURCES) $(STAMPS)/build-tools
	@echo "building and installing mempool"
	@rm -rf build/lib* $(VENV)/wheel  # setuptools would pack a module that was deleted since
	@PYTHONPATH=$(abspath $(TOOLS)) $(PIP) wheel --no-index --no-deps --no-build-isolation --wheel-dir $(VENV)/wheel .
	@$(PIP) install --no-index --no-deps --force-reinstall $(VENV)/wheel/mempool-*.whl
	@touch $@

# What an extra names, an extra of ours among it: told by pyproject.toml, so that pip need not wait for the wheel.
define NEEDS
import re, sys, tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
def needs(extra):
    for need in extras[extra]:
        ours = re.fullmatch(r"mempool\[(.*)\]", need)
        yield from (name for part in ours[1].split(",") for name in needs(part)) if ours else [need]
print(*needs(sys.argv[1]), sep="\n")
endef
export NEEDS
.PRECIOUS: $(STAMPS)/needs-%  # a step between two patterns, which make would remove
$(STAMPS)/needs-%: pyproject.toml | $(STAMPS)/python-$(VERSION)
	@echo "installing what mempool[$*] needs"
	@$(PY) -c "$$NEEDS" $* > $(VENV)/needs-$*.wanted
	@$(PIP) install --no-compile -r $(VENV)/needs-$*.wanted  # most of it is never imported; the rest is compiled then
	@touch $@

# An extra: what it names is installed, and mempool itself.
$(STAMPS)/extra-%: $(STAMPS)/needs-% | $(STAMPS)/mempool
	@touch $@

# Both at once, however make was called: one compiles while the other fetches.
set-up-%:
	@$(MAKE) --no-print-directory -j2 $(STAMPS)/mempool $(STAMPS)/extra-$*

# -- commands -------------------------------------------------------------------------------------------------------
demo: set-up-cli
	@$(if $(findstring --fleet,$(ARGS)),$(MAKE) --no-print-directory $(STAMPS)/extra-dask)
	$(BIN)/mempool demo $(ARGS)

# REPORTS=dir writes compiled.xml and pure.xml there. Where no C compiler was found the pure suite is all there is, unless
# MEMPOOL_REQUIRE_COMPILED=1 says that this is an error. WORKERS processes share the tests of a core: 4, as most machines have 2
# cores at least, and more than half of the time tests wait; more gain little, and a machine that is full tells less.
# The pure run is the second of two: it leaves out what the first has answered for both (tests/conftest.py), and may then find
# nothing to do among ARGS, which is pytest's status 5.
WORKERS ?= 4
PARALLEL = $(if $(filter-out 0 1,$(WORKERS)),-n $(WORKERS) --dist worksteal)
# A whole sweep takes minutes on a machine that does other things as well.
PATIENCE = $(if $(filter long,$@),-o timeout=300 -o faulthandler_timeout=280)
SUITE = $(PYTEST) $(PARALLEL) $(PATIENCE)
test long: set-up-test
	@status=0; second=0; export MEMPOOL_LONG="$${MEMPOOL_LONG:-$(if $(filter long,$@),1,0)}"; \
	if [ "$${MEMPOOL_REQUIRE_COMPILED:-0}" = 1 ] || \
		env -u MEMPOOL_PURE $(PY) -c 'import mempool, sys; sys.exit(mempool.IMPLEMENTATION != "compiled")'; then \
		echo "== the compiled core"; second=1; \
		env -u MEMPOOL_PURE $(SUITE) $(if $(REPORTS),--junitxml=$(REPORTS)/compiled.xml) $(ARGS) || status=1; \
	else echo "== the core is not compiled here: get a C compiler, then 'make clean test'; pure only"; fi; \
	echo "== the pure core"; \
	env -u MEMPOOL_REQUIRE_COMPILED MEMPOOL_PURE=1 MEMPOOL_SECOND_RUN=$$second \
		$(SUITE) $(if $(REPORTS),--junitxml=$(REPORTS)/pure.xml) $(ARGS) || \
		{ [ $$? = 5 ] && [ $$second = 1 ]; } || status=1; \
	exit $$status

check: $(STAMPS)/mempool $(STAMPS)/extra-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --python-executable $(PY)
	PATH="$(abspath $(BIN)):$$PATH" pyright --ignoreexternal --verifytypes mempool
	$(BIN)/mypy --python-executable $(PY) --follow-imports=silent src/mempool/lease.py  # its body: the stub beside it hides it
	$(PYTEST) -q tests/tidy

# The release of distributed that pyproject.toml names as the oldest. It is laid before the venv's own, for some of the tests.
OLDEST_DASK = $(shell sed -n 's/^dask = \["distributed>=\([0-9.]*\)".*/\1/p' pyproject.toml)
oldest-dask: $(STAMPS)/mempool $(STAMPS)/extra-test
	@test -n "$(OLDEST_DASK)" || { echo "pyproject.toml names no oldest distributed" >&2; exit 1; }
	@test -e $(VENV)/dask-$(OLDEST_DASK)/distributed || \
		$(PIP) install --no-deps --target $(VENV)/dask-$(OLDEST_DASK) dask==$(OLDEST_DASK) distributed==$(OLDEST_DASK)
	PYTHONPATH=$(abspath $(VENV))/dask-$(OLDEST_DASK) MEMPOOL_WANTED_DASK=$(OLDEST_DASK) \
		$(PYTEST) -q tests/fleet/test_dask.py tests/fleet/test_dask_processes.py $(ARGS)

stress: export MEMPOOL_LONG = 1
stress: export MEMPOOL_DRAW = 1
stress: $(STAMPS)/mempool $(STAMPS)/extra-test
	$(PYTEST) -m stress -o timeout=600 -o faulthandler_timeout=580 $(ARGS)
	MEMPOOL_LEAK_ROUNDS=1000 $(PYTEST) -m "stress or not stress" tests/danger/test_leaks.py $(ARGS)
	MEMPOOL_SWEEP_PLACES=1000000 MEMPOOL_PURE=1 $(PYTEST) -o timeout=600 -o faulthandler_timeout=580 tests/danger/test_interrupts.py $(ARGS)

# For a Python without the GIL: ten minutes, and five under an allocator that tells of what is used after it was freed.
stress-ft:
	PYTHON_GIL=0 $(MAKE) --no-print-directory stress-ft-here VENV=.venv-free-threaded PYTHON="$$(bash .ci/free-threaded --build | tail -n 1)"

stress-ft-here: $(STAMPS)/mempool
	$(PY) -m verification.without_the_gil $(or $(SECONDS),600) $(ARGS)
	PYTHONMALLOC=debug $(PY) -m verification.without_the_gil $(or $(SECONDS),300) $(ARGS)

# The same under ThreadSanitizer. Who builds the modules is the ordinary Python without the GIL; who plays is an interpreter that
# is instrumented, and slow. The second build is one with a planted bug.
INSTRUMENTED = CFLAGS="-g -fsanitize=thread $(1)" LDFLAGS="-fsanitize=thread" $(MAKE) --no-print-directory \
	PYTHON="$$(bash .ci/free-threaded --build | tail -n 1)" VENV=.venv-races$(2)
races-ft:
	$(call INSTRUMENTED,-DMEMPOOL_WITHOUT_MUTEX,-planted) .venv-races-planted/.stamps/mempool
	$(call INSTRUMENTED,,) races-ft-here \
		MEMPOOL_WITHOUT_MUTEX="$$(.venv-races-planted/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"

races-ft-here: export MEMPOOL_WITHOUT_MUTEX ?=
races-ft-here: $(STAMPS)/mempool
	$(PY) -m verification.races "$$(SANITIZER=thread bash .ci/free-threaded --build | tail -n 1)" $(or $(SECONDS),300) $(ARGS)

bench: $(STAMPS)/mempool $(STAMPS)/extra-bench
	$(BIN)/mempool bench --plot 'docs/img/bench-{group}.svg' $(ARGS)

# The search needs Python >= 3.12, and so a venv of its own where the default is older. Where 3.12 is, it is taken: each
# version has other bytecodes, so other schedules, and the figures in verification/README.md are of 3.12.
OF_THE_FIGURES = python3.12 $(foreach p,$(PYENV_VERSIONS),$(if $(findstring /versions/3.12,$(p)),$(p)))
verify:
	@$(MAKE) --no-print-directory verify-here VENV=.venv-verify \
		PYTHON="$(or $(call find-python,(3, 12),$(OF_THE_FIGURES)),python3.12)"

verify-here: $(STAMPS)/mempool $(STAMPS)/extra-verify
	$(PY) -m verification $(ARGS)

# Every order of memory accesses of the protocol of SharedPool, and that on an emulated AArch64
# (Debian: apt-get install relacy-dev g++ gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static).
verify-ordering: $(STAMPS)/mempool
	$(PY) -m verification.ordering

# What takes longer than the models of `make verify`. Needs spin and two gigabytes.
verify-long: $(STAMPS)/python-$(VERSION)
	$(PY) -m verification.spin --long $(or $(MINUTES),60) $(ARGS)

verify-shared: $(STAMPS)/mempool $(STAMPS)/extra-test
	$(PY) -m verification.shared_bugs $(ARGS)

# Needs clang with libFuzzer (Debian: apt-get install clang).
fuzz-shared: $(STAMPS)/mempool $(STAMPS)/extra-test
	$(PY) -m verification.fuzz $(or $(SECONDS),300) $(ARGS)

soak-shared: $(STAMPS)/mempool
	$(PY) -m verification.soak_shared $(or $(SECONDS),1800) $(ARGS)

# First the bugs chosen by hand, then a sample of those that a machine makes: half an hour. Needs Python >= 3.12, which tells
# of the lines that a test runs also while that test traces them itself.
mutate:
	@$(MAKE) --no-print-directory mutate-here VENV=.venv-verify \
		PYTHON="$(or $(call find-python,(3, 12),$(OF_THE_FIGURES)),python3.12)"

mutate-here: $(STAMPS)/mempool $(STAMPS)/extra-mutate
	$(PY) -m verification.planted
	$(PY) -m verification.mutate $(ARGS)

# The edit loop: what stands in src, uncompiled, without a wheel. An edit needs no step but this one.
dev:
	@test -e $(STAMPS)/extra-test || $(MAKE) --no-print-directory $(STAMPS)/extra-test
	MEMPOOL_PURE=1 PYTHONPATH=src $(PYTEST) -q -x $(or $(ARGS),tests/pool/test_outstanding.py tests/line/test_one_line.py)

# Which lines the tests reach: of the uncompiled core, as C has none that can be counted. Left out are the tests that trace the
# code themselves, or count its memory.
NOT_COUNTED := interrupts out_of_memory finalizers leaks garbage_before_giving_up benchmarks examples cli_demo docs typing
coverage: $(STAMPS)/mempool $(STAMPS)/extra-coverage
	env -u MEMPOOL_REQUIRE_COMPILED MEMPOOL_PURE=1 $(PYTEST) $(PARALLEL) -q $(NOT_COUNTED:%=--ignore-glob="*/test_%.py") \
		--cov=mempool --cov-branch --cov-report=term-missing:skip-covered --cov-report=html:build/coverage $(ARGS)

# The gate. It makes venvs of its own for the other Pythons.
ci:
	bash .ci/run

# Needs valgrind (Debian: apt-get install valgrind).
memcheck: $(STAMPS)/mempool $(STAMPS)/extra-test
	$(PY) -m verification.memcheck $(ARGS)

docs: $(STAMPS)/mempool $(STAMPS)/extra-docs
	$(BIN)/mkdocs build --strict

# Needs Chromium (Debian: apt-get install chromium). Pictures of all pages are left in build/site-check.
site-check: $(STAMPS)/mempool $(STAMPS)/extra-site
	$(PY) -m verification.site $(ARGS)

clean:
	rm -rf .venv .venv-verify .venv-free-threaded .venv-races .venv-races-planted build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples verification -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	find src -name '*.so' -delete

print-python:
	@echo "$(PYTHON)"
