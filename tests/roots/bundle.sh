#!/bin/sh
# A bundle is installed in a bare Debian 12 without any network, and translates: bundle.sh TARGET [CPU].
# Run by `make test-bundle`, as root; for linux-aarch64 under emulation, as both kinds of Raspberry Pi.
set -eu
cd "$(dirname "$0")/../.."
. tests/roots/root.sh

target=$1
case $target in
linux-x86_64) arch=amd64 cpus=max ;;
linux-aarch64) arch=arm64 cpus="cortex-a72 cortex-a76" ;;
*) die "the target is linux-x86_64 or linux-aarch64, not $target" ;;
esac
cpus=${2:-$cpus}
root=$PWD/.cache/root-$arch
make_root "$arch"
started=$(date +%s)
stick=$root/media/stick
rm -rf "$stick" "$root/home/user"
mkdir -p "$stick" "$root/home/user"
trap 'rm -rf "$stick" "$root/home/user"' EXIT
.venv/bin/trimix-edge bundle dzongkha --to "$stick/bundle.tar" --target "$target"
tar -xf "$stick/bundle.tar" -C "$stick" --no-same-owner
rm "$stick/bundle.tar"

in_root python3 -c '
import socket
try:
    socket.create_connection(("1.1.1.1", 53), 5)
except OSError as error:
    print("no network:", error)
else:
    raise SystemExit("there is a network")'

# refused TOLD: install.sh fails, names what is wrong, and leaves nothing behind.
refused() {
    if in_root sh /media/stick/bundle/install.sh /home/user/refused 2>"$root.err" >/dev/null; then
        die "a changed bundle was installed: $1"
    fi
    grep -qF "$1" "$root.err" || { cat "$root.err"; die "this was to be told: $1"; }
    [ ! -e "$root/home/user/refused" ] || die "a refused installation left something behind"
    tail -n 1 "$root.err"
}

cp "$stick/bundle/trio/large_ins.gguf" "$root/home/user/kept"
printf x | dd of="$stick/bundle/trio/large_ins.gguf" bs=1 seek=5000000 conv=notrunc 2>/dev/null
refused 'trio/large_ins.gguf is damaged or was changed'
mv "$root/home/user/kept" "$stick/bundle/trio/large_ins.gguf"
wheel=$(cd "$stick/bundle/wheels" && echo typer-*.whl)
mv "$stick/bundle/wheels/$wheel" "$root/home/user/kept"
refused "wheels/$wheel is missing"
mv "$root/home/user/kept" "$stick/bundle/wheels/$wheel"
cp "$stick/bundle/wheels/$wheel" "$stick/bundle/wheels/typer-99-py3-none-any.whl"
refused 'wheels/typer-99-py3-none-any.whl is not part of the bundle'
rm "$stick/bundle/wheels/typer-99-py3-none-any.whl"

for QEMU_CPU in $cpus; do
    echo "== $target, processor $QEMU_CPU"
    in_root sh /media/stick/bundle/install.sh "/home/user/$QEMU_CPU"
    in_root "/home/user/$QEMU_CPU/venv/bin/trimix-edge" generate "/home/user/$QEMU_CPU/trio" \
        'The name of the file.' --greedy --max-tokens 40 >"$root.out"
    cat "$root.out"
    grep -q 'ཡིག' "$root.out" || die "that is no Dzongkha about a file"
    in_root sh -c "sh /home/user/$QEMU_CPU/start.sh & python3 -c '
import time, urllib.request
for second in range(300):
    time.sleep(1)
    try:
        print(urllib.request.urlopen(\"http://127.0.0.1:8080/health\", timeout=9).read().decode())
        break
    except OSError:
        pass
else:
    raise SystemExit(\"start.sh served nothing\")'"
    # Two processes share the trio, with the module that the bundle carries: the same answer.
    in_root sh -euc '"$1" rpc-server 2>/home/user/log &
        until grep -s "rpc-server at" /home/user/log >&2; do kill -0 $!; sleep 1; done
        "$1" generate "$2" "The name of the file." --greedy --max-tokens 40 --rpc 127.0.0.1:50052' \
        sh "/home/user/$QEMU_CPU/venv/bin/trimix-edge" "/home/user/$QEMU_CPU/trio" >"$root.rpc"
    cmp "$root.out" "$root.rpc" || die "with a server the answer is another one"
    rm -rf "$root/home/user/$QEMU_CPU"
done
echo "passed in $(($(date +%s) - started)) seconds"
