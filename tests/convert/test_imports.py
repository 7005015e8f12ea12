"""The converter's modules import one another in one direction only, at the top of the file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import trimix_convert

ROOT = Path(trimix_convert.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}


def imported(name: str, node: ast.ImportFrom) -> Iterator[str]:
    """The modules of this package that one relative import names."""
    if not node.level:
        return
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    source = f"{package}.{node.module}" if node.module else package
    for alias in node.names:
        inner = f"{source}.{alias.name}"
        yield inner if inner in MODULES else source


def test_no_cycles_between_modules() -> None:
    graph = {
        name: {
            target
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom)
            for target in imported(name, node)
            if target != name
        }
        for name, path in MODULES.items()
    }
    assert sum(map(len, graph.values())) > 40
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_import_within_a_function_but_of_optional_packages() -> None:
    hidden = [
        (name, ast.unparse(inner))
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert {text for _, text in hidden} == {"import torch"}
