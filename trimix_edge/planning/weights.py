"""What of a model is read for a token, and in what type: the rest of its speed is the machine's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from trimix_edge.gguf import GgufFile, ModelShape

_UNMIXED = ("F32", "F16", "BF16", "Q8_0")
_LARGER = {"Q3_K": "Q5_K", "Q2_K": "Q4_K"}
"""The type that llama.cpp's mixtures give some layers instead; Q6_K elsewhere."""


@dataclass(frozen=True)
class ModelWeights:
    """The weights of a model in one quantisation.

    Attributes:
        layers: weights in the layers' matrices, by type: a prompt's tokens go through them.
        output: weights of the output layer, by type: the last token alone goes through it.
        n_bytes: of all tensors.
        n_file_bytes: of what has to be downloaded.
    """

    shape: ModelShape
    layers: Mapping[str, int]
    output: Mapping[str, int]
    n_bytes: int
    n_file_bytes: int

    @property
    def types(self) -> frozenset[str]:
        return frozenset({*self.layers, *self.output})


def of_file(file: GgufFile) -> ModelWeights | None:
    """The weights of a file; None if it is no model whose shape it tells."""
    shape = ModelShape.of(file)
    if shape is None:
        return None
    matrices = [tensor for tensor in file.tensors if len(tensor.shape) > 1]
    is_tied = all(tensor.name != "output.weight" for tensor in matrices)
    of_output = "token_embd.weight" if is_tied else "output.weight"
    layers, output = Counter[str](), Counter[str]()
    for tensor in matrices:
        if tensor.name == of_output:
            output[tensor.kind] += tensor.n_elements
        elif tensor.name != "token_embd.weight":
            layers[tensor.kind] += tensor.n_elements
    return ModelWeights(shape, layers, output, file.n_tensor_bytes, file.n_bytes)


def of_sizes(
    shape: ModelShape, quantization: str, n_bytes: int, n_bytes_f16: int, *, is_tied: bool
) -> ModelWeights:
    """The weights of a model of which only the sizes of its files are known.

    llama.cpp's mixtures have two types in their layers, and their sizes tell how much is of which:
    the output layer is Q6_K, the embedding of the type that gives the mixture its name.

    Args:
        n_bytes: of all tensors in that quantisation.
        n_bytes_f16: of all tensors in F16.
        is_tied: the output layer is the embedding.
    """
    base = quantization.removesuffix("_M").removesuffix("_S").removesuffix("_L")
    n_embedding = shape.n_vocab * shape.n_embd
    n_layers = n_bytes_f16 // 2 - n_embedding * (1 if is_tied else 2)
    output = base if base in _UNMIXED else "Q6_K"
    layer_bytes = n_bytes - n_embedding * weight_bytes(output)
    if not is_tied:
        layer_bytes -= n_embedding * weight_bytes(base)
    larger = _LARGER.get(base, "Q6_K")
    layers = {base: n_layers}
    if base not in _UNMIXED and base != larger:
        excess = layer_bytes - n_layers * weight_bytes(base)
        n_larger = min(
            n_layers, max(0, round(excess / (weight_bytes(larger) - weight_bytes(base))))
        )
        layers = {base: n_layers - n_larger, larger: n_larger}
    n_file_bytes = n_bytes + 40 * shape.n_vocab  # tokens, their types and merges, about
    layers = {kind: n for kind, n in layers.items() if n}
    return ModelWeights(shape, layers, {output: n_embedding}, n_bytes, n_file_bytes)


def weight_bytes(kind: str) -> float:
    """Bytes of one weight of a type of ggml, as ``Q4_K``."""
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return float(block_bytes) / float(block)
