"""The package as others see it: its public names, its types, and the price of importing it."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest
import trimix_kernels

import trimix_edge
from trimix_edge import errors


def test_public_names_are_sorted_and_importable() -> None:
    assert trimix_edge.__all__ == sorted(trimix_edge.__all__)
    assert all(getattr(trimix_edge, name) is not None for name in trimix_edge.__all__)
    assert {*trimix_edge.__all__, "__version__"} == set(dir(trimix_edge))


def test_every_public_name_comes_from_one_home() -> None:
    assert sorted(trimix_edge._HOME_OF) == trimix_edge.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'TriMax'"):
        trimix_edge.TriMax  # noqa: B018


def test_kernels_names_are_sorted_and_importable() -> None:
    assert trimix_kernels.__all__ == sorted(trimix_kernels.__all__)
    assert all(callable(getattr(trimix_kernels, name)) for name in trimix_kernels.__all__)


@pytest.mark.parametrize("package", ["trimix_edge", "trimix_kernels", "trimix_convert"])
def test_packages_are_typed(package: str) -> None:
    assert (files(package) / "py.typed").is_file()


@pytest.mark.parametrize("module", ["trimix_edge", "trimix_edge.cli"])
def test_importing_is_cheap(module: str) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"llama_cpp", "numba", "numpy", "gguf", "huggingface_hub", "torch"}


def test_the_tree_of_errors_is_drawn_whole() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.TriMixError)
    }
    drawn = {word for word in (errors.__doc__ or "").split() if word in kinds}
    assert drawn == kinds
