# Functions for a small Debian 12 in a folder, of this architecture or of another one by emulation.
# To be sourced, as root; $root is the folder, QEMU_CPU the processor that is emulated.
export QEMU_CPU="${QEMU_CPU:-max}"

die() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

need() {
    for program in "$@"; do
        command -v "$program" >/dev/null || die "$program is missing: install $program"
    done
}

# make_root ARCH: Debian's packages for Python and nothing else; made once.
make_root() {
    [ "$(id -u)" = 0 ] || die "making a Debian root needs the rights of root: use sudo"
    need debootstrap unshare chroot
    if [ "$1" != "$(dpkg --print-architecture)" ]; then
        emulate "$1"
    fi
    [ ! -e "$root/made" ] || return 0
    rm -rf "$root"
    echo "Making a Debian 12 root for $1 in $root"
    debootstrap --arch="$1" --variant=minbase --include=python3,python3-venv bookworm "$root" \
        >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; die "debootstrap failed: see $root.log"; }
    rm -rf "$root/var/cache/apt/archives" "$root/debootstrap"
    touch "$root/made"
}

# emulate ARCH: have the kernel run that architecture's programs with QEMU.
emulate() {
    [ "$1" = arm64 ] || die "no emulation of $1 is set up here"
    command -v qemu-aarch64-static >/dev/null || die "QEMU is missing: install qemu-user-static"
    formats=/proc/sys/fs/binfmt_misc
    [ -e "$formats/register" ] || mount -t binfmt_misc binfmt_misc "$formats" \
        || die "this kernel lacks binfmt_misc, which lets it run programs of another architecture"
    [ -e "$formats/qemu-aarch64" ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >"$formats/register" \
        || die "qemu-aarch64 could not be registered in $formats"
}

# in_root COMMAND...: in the root, in a network and a list of processes of its own.
in_root() {
    unshare --net --mount --pid --fork --kill-child sh -c '
        root=$1; shift
        ip link set lo up 2>/dev/null || true
        mount -t proc proc "$root/proc"
        exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root LANG=C.UTF-8 \
            QEMU_CPU="$QEMU_CPU" "$@"' sh "$root" "$@"
}
