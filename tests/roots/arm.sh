#!/bin/sh
# The suites that make sense under emulation, on an emulated Raspberry Pi 5 and, in part, a Pi 4.
# Run by `make test-arm`, as root.
set -eu
cd "$(dirname "$0")/../.."
. tests/roots/root.sh

started=$(date +%s)
root=$PWD/.cache/root-arm64
house=$PWD/dist/wheels/linux-aarch64
make_root arm64
made=$(date +%s)

# What tests need beside what runs, for the Python of Debian 12. pip installs for another machine than
# its own, which is much faster than pip under emulation; test-bundle does it there.
platforms="--python-version 3.11 --only-binary :all: --platform linux_aarch64"
for glibc in 2014 _2_17 _2_27 _2_28; do
    platforms="$platforms --platform manylinux${glibc}_aarch64"
done

# install LEVEL: what is for that kind of processor, into a folder of its own.
install() {
    rm -rf "$root/site-$1"
    # shellcheck disable=SC2086
    .venv/bin/pip install --quiet --no-compile --target "$root/site-$1" $platforms \
        --find-links "$house" --find-links "$house/$1" \
        'trimix-edge[serve]' pytest hypothesis safetensors tokenizers
}

rm -rf "$root/src"
mkdir -p "$root/src"
trap 'rm -rf "$root/src"' EXIT
git ls-files -z tests examples pyproject.toml | xargs -0 cp --parents -t "$root/src"

# suite LEVEL ARGUMENTS of pytest, without what emulation cannot do.
suite() {
    level=$1
    shift
    in_root sh -c 'cd /src && PYTHONPATH=$1 && export PYTHONPATH && shift && exec "$@"' sh \
        "/site-$level" python3 -m pytest -q --durations=5 -p no:cacheprovider "$@" \
        $(sed -n 's/^\(tests[^ ]*\).*/--deselect \1/p' tests/roots/not_on_arm.txt)
}

failed=
QEMU_CPU=cortex-a76
install armv8.2
echo "== Raspberry Pi 5 ($QEMU_CPU): kernels, runtime, goldens, repacking, the embedded trio"
suite armv8.2 tests/kernels tests/runtime tests/integration/test_goldens.py \
    tests/integration/test_repacking.py tests/integration/test_embedded_trio.py || failed=yes
QEMU_CPU=cortex-a72
install armv8.0
echo "== Raspberry Pi 4 ($QEMU_CPU): goldens, repacking"
suite armv8.0 tests/integration/test_goldens.py tests/integration/test_repacking.py || failed=yes
echo "left out by name: $(grep -c '^tests' tests/roots/not_on_arm.txt) (tests/roots/not_on_arm.txt)"
echo "the root took $((made - started)) seconds, the rest $(($(date +%s) - made))"
[ -z "$failed" ] || die "a suite failed"
