# make demo   translate with the embedded trio
# make serve  the API and the page, at http://127.0.0.1:8080
# make test   run the tests
# make check  formatter, linter, types, floors, the wheel
# make bench  speed, as ratios and milliseconds of interleaved runs; with PyTorch installed, the
#             converter beside llama.cpp's own
# make test-page  the page in Chromium, where it is installed
# make parity the converter against llama.cpp's own; needs PyTorch and npm
#
# Each of them sets .venv up first. Another build of llama.cpp, after `make clean`:
# CMAKE_ARGS=-DGGML_CUDA=on make demo, or CC=clang CXX=clang++ make demo

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo serve test test-page check bench parity format clean

PYTHON ?= python3
BIN := .venv/bin
LLAMA := $(shell grep -o 'llama-cpp-python==[0-9.]*' pyproject.toml)

# Only llama.cpp's library is needed: no multimodal part, no programs, no server.
LEAN := -DLLAVA_BUILD=OFF $(foreach part,TESTS TOOLS EXAMPLES SERVER APP,-DLLAMA_BUILD_$(part)=OFF)

# Some virtual machines report AMX, and end a process that loads a tile configuration. llama.cpp's
# AVX-512 kernels are used instead.
ifeq ($(shell uname -m),x86_64)
NO_AMX := $(foreach part,tile int8 bf16,-mno-amx-$(part))
endif

# pip keeps wheels by name alone: one that was built otherwise must be neither taken nor kept.
UNCACHED := $(if $(CMAKE_ARGS)$(filter-out default,$(origin CC) $(origin CXX)),--no-cache-dir)

demo: .venv/runtime
	@$(BIN)/python examples/demo.py

serve: .venv/runtime
	@$(BIN)/trimix-edge serve

test-page: .venv/dev
	$(BIN)/python -m pytest -q -rs tests/page

test: .venv/dev
	$(BIN)/python -m pytest -q --ignore=tests/page
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -q tests/kernels tests/runtime

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/packaging

bench: .venv/dev
	$(BIN)/trimix-edge bench
	$(BIN)/python tests/benchmarks/overhead.py
	$(BIN)/python tests/benchmarks/scoring.py
	$(BIN)/trimix-edge bench --parallel 1,2,4,8,16
	$(BIN)/python tests/benchmarks/serving.py 200 8
	@rival=; if $(BIN)/python -c 'import sentencepiece, torch' 2>/dev/null; then \
		$(MAKE) --no-print-directory .cache/llama.cpp; rival="--llama-cpp .cache/llama.cpp"; fi; \
	$(BIN)/python tests/benchmarks/convert_memory.py $$rival

parity: .venv/dev .cache/llama.cpp
	@$(BIN)/python -c 'import sentencepiece, torch, transformers' 2>/dev/null \
		|| { echo "PyTorch is missing: $(BIN)/pip install --editable '.[parity]'"; exit 1; }
	$(BIN)/python convert/parity/compare.py .cache/llama.cpp
	$(BIN)/python convert/parity/imatrix.py .cache/llama.cpp

.cache/llama.cpp: | .venv/dev
	@mkdir -p .cache
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --dest .cache $(LLAMA)
	@tar -xzf .cache/llama_cpp_python-*.tar.gz -C .cache
	@mv .cache/llama_cpp_python-*/vendor/llama.cpp $@

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist

.venv/llama: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.10 or newer"; exit 1; }
	@command -v c++ >/dev/null || { echo "c++ is missing: install a C++ compiler"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@echo "Installing $(LLAMA): compiles llama.cpp once, about five minutes on two cores"
	@CFLAGS="$(NO_AMX) $${CFLAGS:-}" CXXFLAGS="$(NO_AMX) $${CXXFLAGS:-}" CMAKE_ARGS="$(LEAN) $${CMAKE_ARGS:-}" \
		$(BIN)/pip install --verbose $(UNCACHED) $(LLAMA) 2>&1 \
		| tee .venv/llama.log \
		| sed -un 's|^ *\[\([0-9]*/[0-9]*\)\].*|  compiled \1|p' \
		|| { tail -n 30 .venv/llama.log; echo "The whole log: .venv/llama.log"; exit 1; }
	@touch $@

.venv/runtime: .venv/llama pyproject.toml
	@echo "Installing trimix-edge"
	@$(BIN)/pip install --quiet --editable '.[serve]'
	@touch $@

.venv/dev: .venv/runtime pyproject.toml
	@echo "Installing the development tools"
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@
