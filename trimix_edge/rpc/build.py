"""Compile llama.cpp's RPC backend, which wheels lack, into a module that ggml loads at run time.

``python -m trimix_edge.rpc.build [FOLDER]`` takes its sources from a folder of llama.cpp, or from
the source of the installed llama-cpp-python, which pip downloads.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from trimix_edge.errors import RpcError, TriMixError
from trimix_edge.files import cache_folder

_SOURCES = ("ggml-rpc.cpp", "transport.cpp")
# ggml/src/ggml-rpc/CMakeLists.txt and ggml_add_backend_library
_FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-pthread"),
    *(f"-D{name}" for name in ("GGML_BACKEND_DL", "GGML_BACKEND_SHARED", "GGML_BACKEND_BUILD")),
    "-DGGML_SHARED",
]
_NEEDED = re.compile(r"(?:.*/)?ggml/((?:include|src|src/ggml-rpc)/[\w.-]+\.(?:h|cpp))")
_MAX_SOURCE = 64 << 20
CARRIED = "ggml-rpc.so"
"""Its name among the libraries of the wheels that ``make wheels`` compiles."""


def module_path() -> Path:
    """Where the module is compiled to: in the virtual environment, or else in the cache folder.

    It belongs to one release of llama.cpp, and to one kind of processor.
    """
    in_venv = sys.prefix != sys.base_prefix
    folder = Path(sys.prefix) / "lib" / "trimix-edge" if in_venv else cache_folder() / "rpc"
    return folder / f"ggml-rpc-{version('llama-cpp-python')}-{platform.machine()}.so"


def find_module() -> Path:
    """The module: one that was compiled here, or that came with llama.cpp, as in a bundle.

    Raises:
        RpcError: there is none.
    """
    from trimix_edge.llama.rpc import library_folder

    path = module_path()
    if not path.exists():
        path = library_folder() / CARRIED
    if not path.exists():
        raise RpcError(
            "llama.cpp's RPC module is missing, which several machines need: compile it with "
            "`make rpc`, or `python -m trimix_edge.rpc.build`"
        )
    return path


def build(source: Path | None = None) -> Path:
    """Compile the module, some seconds, and return its path.

    Args:
        source: a folder of llama.cpp, of the same release as the installed one; None to download
            the source of the installed llama-cpp-python with pip.

    Raises:
        RpcError: no compiler, no network, or a file is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        ggml = source / "ggml" if source else _download(Path(folder))
        target = module_path()
        built = Path(folder) / target.name
        sources = [ggml / "src" / "ggml-rpc" / name for name in _SOURCES]
        missing = [path for path in sources if not path.is_file()]
        if missing:
            raise RpcError(f"{missing[0]} is missing: name a folder of llama.cpp, or none")
        include = [f"-I{ggml / part}" for part in ("include", "src", "src/ggml-rpc")]
        _run(
            "compiled",
            [os.environ.get("CXX", "c++"), *_FLAGS, *include, *sources, _library(), "-o", built],
        )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(f".{os.getpid()}")
            partial.write_bytes(built.read_bytes())
            partial.replace(target)
        except OSError as error:
            raise RpcError(f"{target} can't be written: {error.strerror or error}") from None
    return target


def _library() -> Path:
    """The installed ggml-base, whose functions the module calls."""
    from trimix_edge.llama.rpc import library_folder

    found = sorted(library_folder().glob("libggml-base.*"), key=lambda path: len(path.name))
    if not found:
        raise RpcError(f"{library_folder()} holds no libggml-base: install llama-cpp-python anew")
    return found[0]


def _download(folder: Path) -> Path:
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options: list[str | Path] = ["--no-deps", "--no-binary", ":all:", "--dest", folder]
    _run(f"downloaded ({wanted})", [*pip, *options, wanted])
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            name = _NEEDED.fullmatch(member.name)
            file = tar.extractfile(member) if name and member.isfile() else None
            if name and file and member.size < _MAX_SOURCE:
                target = folder / "ggml" / name[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read())
    return folder / "ggml"


def _run(what: str, command: list[str | Path]) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise RpcError(
            f"the RPC module was not {what}: {command[0]}: {error.strerror or error}"
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        why = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise RpcError(f"the RPC module was not {what}: {why.strip()[:300]}")


def main(arguments: list[str]) -> int:
    """The program; its exit code."""
    try:
        print(build(Path(arguments[0]) if arguments else None))
    except TriMixError as error:
        print(f"trimix-edge: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
