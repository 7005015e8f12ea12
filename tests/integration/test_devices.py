"""Where layers can go is decided by the devices that ggml has, not by what a build could use."""

from __future__ import annotations

import llama_cpp
import pytest

from trimix_edge.llama import backend

CPU, GPU, INTEGRATED, ACCELERATOR = range(4)  # enum ggml_backend_dev_type


class Ggml:
    """ggml's registry with devices of given types."""

    def __init__(self, types: list[int]) -> None:
        self._types = types

        def count() -> int:
            return len(types)

        def get(i: int) -> int:
            return i

        def type_of(device: int) -> int:
            return types[device]

        self.ggml_backend_dev_count, self.ggml_backend_dev_get = count, get
        self.ggml_backend_dev_type = type_of


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([CPU], False),
        ([CPU, ACCELERATOR], False),
        ([CPU, GPU], True),
        ([INTEGRATED, CPU], True),
        ([], False),
    ],
)
def test_a_gpu_is_a_registered_device_of_that_type(
    types: list[int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "ggml_library", lambda name: Ggml(types))
    assert backend.has_gpu() is expected


def test_a_build_that_could_offload_has_no_gpu_by_that_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after loading the module for models on other machines."""
    backend.init_backend()
    before = backend.has_gpu()
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: True)
    assert backend.has_gpu() is before
    assert backend.backend_info().gpu_offload is before
