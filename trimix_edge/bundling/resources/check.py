"""Looks at a bundle before anything of it is installed: python3 -I check.py BUNDLE PARENT.

Prints the kind of processor whose llama.cpp is to be installed. Uses Python's own library alone.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path, PurePosixPath

SUMS = "SHA256SUMS"
COPY_AGAIN = "copy the whole bundle again"

X86_64_V2 = "popcnt sse4_1 sse4_2 ssse3"
X86_64_V3 = X86_64_V2 + " avx avx2 bmi2 f16c fma"
X86 = {
    "x86-64-v2": X86_64_V2,
    "x86-64-v3": X86_64_V3,
    "x86-64-v4": X86_64_V3 + " avx512f avx512bw avx512cd avx512dq avx512vl",
}

AT_HWCAP = 16
FPHP, ASIMDHP, ASIMDDP = 1 << 9, 1 << 10, 1 << 20  # Linux: asm/hwcap.h


class Refused(Exception):
    """What is wrong, in one line."""


def digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)


def listed_sums(root: Path) -> dict[str, str]:
    """Sums by name, as the list has them."""
    sums = {}
    for line in (root / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, gap, name = line.partition("  ")
        parts = PurePosixPath(name).parts
        if not gap or len(digest) != 64 or not parts or parts[0] == "/" or ".." in parts:
            raise Refused(f"{SUMS} is damaged: {COPY_AGAIN}")
        sums[name] = digest
    return sums


def check_files(root: Path) -> None:
    """Every file of the list is there and as it was, and there is no other."""
    sums = listed_sums(root)
    for name, digest in sorted(sums.items()):
        path = root / name
        if path.is_symlink() or not path.is_file():
            raise Refused(f"{printable(name)} is missing: {COPY_AGAIN}")
        if digest_of(path) != digest:
            raise Refused(f"{printable(name)} is damaged or was changed: {COPY_AGAIN}")
    # pip would install a wheel that was put there, and the other folders are copied whole.
    for folder in ("wheels", "trio", "licences"):
        for path in (root / folder).rglob("*"):
            name = path.relative_to(root).as_posix()
            is_folder = path.is_dir() and not path.is_symlink()
            if name not in sums and not is_folder and not path.name.startswith("."):
                raise Refused(f"{printable(name)} is not part of the bundle: take it away")


def facts_of(root: Path) -> dict[str, str]:
    lines = (root / "bundle.conf").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def check_machine(facts: dict[str, str], parent: Path) -> None:
    """The machine, its C library and its disk."""
    wanted, machine = facts["machine"], platform.machine()
    if machine != wanted:
        raise Refused(f"this bundle is for {wanted}, this machine is {machine}")
    if sys.maxsize < 1 << 32:
        raise Refused("this Python has 32 bits: a 64-bit system is needed")
    name = "CS_GNU_LIBC_VERSION"
    kind, _, version = ((name in os.confstr_names and os.confstr(name)) or "").partition(" ")
    if kind != "glibc":
        raise Refused("a system with glibc is needed, as Debian, Ubuntu or Raspberry Pi OS")
    if number(version) < number(facts["glibc"]):
        raise Refused(
            f"glibc {facts['glibc']} or newer is needed, this system has {version}: install a "
            f"newer system"
        )
    needed, free = int(facts["needs"]), shutil.disk_usage(parent).free
    if free < needed:
        raise Refused(
            f"{needed // 10**6} MB of free disk are needed in {parent}, there are {free // 10**6}"
        )


def x86_levels() -> set[str]:
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    flags = next((line for line in cpu.splitlines() if line.startswith("flags")), "")
    have = set(flags.partition(":")[2].split())
    return {level for level, needed in X86.items() if have.issuperset(needed.split())}


def arm_levels() -> set[str]:
    """By what the kernel tells programs: an emulator's /proc/cpuinfo may be its host's."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    wanted = FPHP | ASIMDHP | ASIMDDP
    return {"armv8.0", "armv8.2"} if getauxval(AT_HWCAP) & wanted == wanted else {"armv8.0"}


def chosen_level(facts: dict[str, str]) -> str:
    """The most able kind that this processor is."""
    able = x86_levels() if facts["machine"] == "x86_64" else arm_levels()
    for level in facts["levels"].split():
        if level in able:
            return level
    raise Refused(f"this processor is of none of the kinds {facts['levels']}")


def main() -> None:
    root, parent = map(Path, sys.argv[1:3])
    try:
        check_files(root)
        facts = facts_of(root)
        check_machine(facts, parent)
        level = chosen_level(facts)
    except Refused as refused:
        sys.exit(f"install.sh: {refused}")
    except OSError as error:
        sys.exit(f"install.sh: {error.filename or root}: {error.strerror or error}")
    print(f"All files are whole. Sum of the bundle: {digest_of(root / SUMS)}", file=sys.stderr)
    print(level)


if __name__ == "__main__":
    main()
