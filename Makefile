# make demo   translate with the embedded trio
# make serve  the API and the page, at http://127.0.0.1:8080
# make test   run the tests
# make check  formatter, linter, types, floors, the wheel
# make bench  speed, as ratios and milliseconds of interleaved runs; with PyTorch installed, the
#             converter beside llama.cpp's own
# make test-page  the page in Chromium, where it is installed
# make parity the converter against llama.cpp's own; needs PyTorch and npm
# make wheels TARGET=linux-x86_64|linux-aarch64   what `trimix-edge bundle` takes along
# make test-bundle TARGET=...   a bundle in a bare Debian without a network; as root
# make rpc    compile llama.cpp's module for several machines; `make demo` tries to as well
# make test-arm   the suites on an emulated Raspberry Pi, about a quarter of an hour; as root
#
# Each of them sets .venv up first. Another build of llama.cpp, after `make clean`:
# CMAKE_ARGS=-DGGML_CUDA=on make demo, or CC=clang CXX=clang++ make demo

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo serve rpc test test-page test-bundle test-arm check bench parity wheels format clean

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

# Its sources are those of the installed llama.cpp.
RPC = [ -e "$$(echo .venv/lib/trimix-edge/ggml-rpc-$(subst llama-cpp-python==,,$(LLAMA))-*.so)" ] \
	|| { echo "Compiling llama.cpp's RPC module, for several machines: about a minute"; \
	$(BIN)/python -m trimix_edge.rpc.build $(wildcard .cache/llama.cpp) >/dev/null; }

demo: .venv/runtime
	@$(BIN)/python examples/demo.py
	@$(RPC) || true

rpc: .venv/runtime
	@$(RPC)

serve: .venv/runtime
	@$(BIN)/trimix-edge serve

test-page: .venv/dev
	$(BIN)/python -m pytest -q -rs tests/page

test-bundle: wheels
	@tests/roots/bundle.sh $(TARGET)

test-arm:
	@$(MAKE) --no-print-directory wheels TARGET=linux-aarch64
	@tests/roots/arm.sh

test: .venv/dev
	@$(RPC) || true
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
	$(BIN)/python tests/benchmarks/reading.py
	$(BIN)/trimix-edge bench --parallel 1,2,4,8,16
	$(BIN)/python tests/benchmarks/prefix.py
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

# Wheels for machines without a network: dist/wheels/TARGET holds all of them, and llama.cpp's once
# for each kind of processor, in a folder with the name of the kind: install.sh chooses. Another
# architecture than this machine's is cross-compiled (Debian: apt install g++-aarch64-linux-gnu).
TARGET ?= linux-$(shell uname -m)
PYTHONS ?= 3.11 3.12 3.13
ARCH := $(TARGET:linux-%=%)
WHEELS := dist/wheels/$(TARGET)
SOURCE := .cache/$(subst ==,-,$(LLAMA))
GCC := $(if $(filter $(ARCH),$(shell uname -m)),,$(ARCH)-linux-gnu-)
LEVELS_x86_64 := x86-64-v2 x86-64-v3 x86-64-v4
LEVELS_aarch64 := armv8.0 armv8.2
AVX2 := $(foreach part,AVX AVX2 FMA F16C BMI2,-DGGML_$(part)=ON)
FLAGS_x86-64-v2 := -DGGML_SSE42=ON $(AVX2:%=ON=%OFF) -DGGML_AVX512=OFF
FLAGS_x86-64-v3 := -DGGML_SSE42=ON $(AVX2) -DGGML_AVX512=OFF
FLAGS_x86-64-v4 := -DGGML_SSE42=ON $(AVX2) -DGGML_AVX512=ON
FLAGS_armv8.0 := -DGGML_CPU_ARM_ARCH=armv8-a
FLAGS_armv8.2 := -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16

# One copy of each library, without the links of version numbers that a wheel would make copies of.
# OpenMP's own library, which EXTRA_CMAKE takes along, is no part of a small system.
PORTABLE = $(LEAN) -DGGML_NATIVE=OFF -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON \
	-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=$(ARCH) \
	-DCMAKE_C_COMPILER=$(GCC)gcc -DCMAKE_CXX_COMPILER=$(GCC)g++ \
	-DOPENMP_LIBRARY=$(shell $(GCC)gcc -print-file-name=libgomp.so.1 | xargs readlink -f)
ONE_COPY := -Cwheel.exclude='lib/**;bin/**;include/**'

wheels: $(LEVELS_$(ARCH):%=$(WHEELS)/%/built)
	rm -rf dist/wheels/own $(WHEELS)/*.whl
	$(BIN)/python -m build --wheel --no-isolation --outdir dist/wheels/own . >/dev/null
	for python in $(PYTHONS); do \
		$(BIN)/pip download --quiet --dest $(WHEELS) --only-binary :all: --python-version $$python \
			--platform linux_$(ARCH) $(foreach n,17 27 28,--platform manylinux_2_$(n)_$(ARCH)) \
			--platform manylinux2014_$(ARCH) --find-links $(firstword $(^D)) \
			"$$(echo dist/wheels/own/*.whl)[serve]"; \
	done
	rm $(WHEELS)/llama_cpp_python-*.whl
	cp $(SOURCE)/vendor/llama.cpp/LICENSE $(WHEELS)/LICENSE.llama.cpp
	cp $(wildcard /usr/share/doc/libgomp1$(if $(GCC),-*-cross)/copyright) $(WHEELS)/LICENSE.libgomp
	@du -sh $(WHEELS)

$(WHEELS)/%/built: $(SOURCE)/CMakeLists.txt | .venv/dev
	@command -v $(GCC)g++ >/dev/null || { echo "$(GCC)g++ is missing: install g++-$(ARCH)-linux-gnu"; exit 1; }
	@echo "Compiling $(LLAMA) for $(TARGET), $*"
	@rm -rf $(@D) && mkdir -p $(@D)
	@_PYTHON_HOST_PLATFORM=$(TARGET) CMAKE_ARGS="$(PORTABLE) $(FLAGS_$*)" \
		$(BIN)/pip wheel --verbose --no-deps --no-cache-dir --wheel-dir $(@D) $(ONE_COPY) \
		-Cbuild-dir=$(CURDIR)/$(SOURCE)/build/$(TARGET) ./$(SOURCE) >$(@D).log 2>&1 \
		|| { tail -n 30 $(@D).log; exit 1; }
	@touch $@

# What llama-cpp-python's wheel has as well here: OpenMP's library, and llama.cpp's RPC module, as
# trimix_edge/rpc/build.py compiles it, since the target may have no compiler.
define EXTRA_CMAKE
set(lib $${SKBUILD_PLATLIB_DIR}/llama_cpp/lib)
set(ggml $${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src)
install(FILES $${OPENMP_LIBRARY} RENAME libgomp.so.1 DESTINATION $${lib})
add_library(rpc-module MODULE $${ggml}/ggml-rpc/ggml-rpc.cpp $${ggml}/ggml-rpc/transport.cpp)
set_target_properties(rpc-module PROPERTIES PREFIX "" OUTPUT_NAME ggml-rpc)
target_compile_definitions(rpc-module PRIVATE GGML_BACKEND_DL GGML_BACKEND_SHARED GGML_BACKEND_BUILD)
target_include_directories(rpc-module PRIVATE $${ggml})
target_link_libraries(rpc-module PRIVATE ggml-base)
install(TARGETS rpc-module LIBRARY DESTINATION $${lib})
endef
export EXTRA_CMAKE

# llama.cpp's `common` is for its programs, and takes as long to compile as the rest.
$(SOURCE)/CMakeLists.txt: Makefile | .venv/dev
	@rm -rf $(@D) && mkdir -p $(@D)
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --dest .cache $(LLAMA)
	@tar -xzf .cache/llama_cpp_python-*.tar.gz -C $(@D) --strip-components 1
	@sed -i '/LLAMA_BUILD_COMMON ON/d' $@
	@printf '%s\n' "$$EXTRA_CMAKE" >>$@

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
	@$(BIN)/pip install --quiet --editable '.[serve]' 'sacrebleu>=2.4' # chrF++ in the demo
	@touch $@

.venv/dev: .venv/runtime pyproject.toml
	@echo "Installing the development tools"
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@
