#!/bin/sh
# Installs what is in this folder, without a network: sh install.sh [WHERE]
# WHERE is a folder that does not exist yet; ~/trimix-edge-NAME if absent.
# PYTHON=/path/to/python3.11 sh install.sh uses this Python.
set -eu

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    exit 1
}

fact() {
    sed -n "s/^$1=//p" "$here/bundle.conf"
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -le 1 ] || fail "too many arguments: sh install.sh [WHERE]"
for file in bundle.conf check.py SHA256SUMS start.sh selftest.txt; do
    [ -f "$here/$file" ] || fail "$file is missing: copy the whole bundle again"
done
[ "$(uname -s)" = Linux ] || fail "this bundle is for Linux, this is $(uname -s)"
pythons=$(fact pythons)

python=
found=
for candidate in ${PYTHON:+"$PYTHON"} python3 $(printf 'python%s ' $pythons); do
    version=$("$candidate" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
        || continue
    found="$found $version"
    case " $pythons " in
    *" $version "*) ;;
    *) continue ;;
    esac
    if "$candidate" -I -c 'import ensurepip, venv' 2>/dev/null; then
        python=$candidate
        break
    fi
    found="$found (without venv)"
done
if [ -z "$python" ]; then
    case $found in
    *venv*) fail "Python's venv is missing: install python3-venv" ;;
    "") fail "Python is missing: install Python, one of the versions $pythons" ;;
    *) fail "one of the Python versions $pythons is needed, there is$found" ;;
    esac
fi

to=${1:-${HOME:?}/trimix-edge-$(fact name)}
[ ! -e "$to" ] && [ ! -L "$to" ] || fail "$to exists: name another folder, or take it away first"
case $to in
*[\"\$\`\\]* | *"
"*) fail "$(printf '%s' "$to" | tr '\n' '?'): choose a folder without quotes, \$, \`, \\ and line ends" ;;
esac
parent=$(dirname -- "$to")
room=$parent
while [ ! -d "$room" ] && [ "$room" != . ] && [ "$room" != / ]; do
    room=$(dirname -- "$room")
done

# Sums first: nothing else of the bundle is used before, and no folder is made.
level=$("$python" -I -B "$here/check.py" "$here" "$room") || exit 1
mkdir -p -- "$parent" || fail "the folder $parent can't be made"

undo() {
    rm -rf -- "$to"
}
trap 'undo' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir -- "$to" || { trap - EXIT; fail "the folder $to can't be made"; }
to=$(CDPATH='' cd -- "$to" && pwd)

echo "Installing into $to with Python $version, for processors of the kind $level"
"$python" -I -m venv "$to/venv" || fail "Python could not make a virtual environment in $to"
"$to/venv/bin/python" -I -m pip --isolated install --quiet --no-index --no-cache-dir --no-compile \
    --disable-pip-version-check --find-links "$here/wheels" --find-links "$here/wheels/$level" \
    'trimix-edge[serve]' || fail "the wheels could not be installed into $to (see above)"
cp -R -- "$here/trio" "$here/licences" "$here/README.txt" "$here/start.sh" "$to/" \
    || fail "the models could not be copied into $to"

echo "Testing it with: $(cat "$here/selftest.txt")"
answer=$("$to/venv/bin/trimix-edge" generate "$to/trio" --file "$here/selftest.txt" \
    --greedy --max-tokens 48) || fail "the test failed (see above): nothing is installed"
[ -n "$answer" ] || fail "the test gave no answer: nothing is installed"
printf '%s\n' "$answer"

trap - EXIT INT TERM HUP
echo "Installed. Start the page with: sh '$to/start.sh'"
echo "To remove it, delete the folder $to"
