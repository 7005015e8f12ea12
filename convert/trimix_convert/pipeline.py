"""From a checkpoint's folder to a GGUF file, a megabyte of weights in memory at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFType, GGUFWriter

from .arch import architecture_for
from .arch.base import Architecture, TensorPlan
from .checkpoint import open_tensors
from .config import Config
from .encode import FILE_TYPES, tensor_type
from .errors import CheckpointError, ConversionError
from .metadata import write_model_card
from .output import Output, Progress, check_target_name, write_file
from .tensor import Tensor
from .tokenizer import read_vocabulary


@dataclass(frozen=True)
class ConversionReport:
    """What was converted, and what a reader ought to know about it.

    `outtype` is the one that "auto" chose, `n_bytes` the size of the file; `notes` name what
    was left out or done differently from what was asked.
    """

    architecture: str
    target: Path
    outtype: str
    n_tensors: int
    n_parameters: int
    n_bytes: int
    pre_tokenizer: str
    notes: tuple[str, ...] = ()


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    outtype: str = "auto",
    pre: str | None = None,
    progress: Progress | None = None,
    allow_nan: bool = False,
    overwrite: bool = True,
) -> ConversionReport:
    """Convert the Hugging Face checkpoint in the folder `source` to the GGUF file `target`.

    `outtype` is "f32", "f16", "bf16", "q8_0", in any case, or "auto": the type of the
    checkpoint's first matrix, F16 if that is float32. `pre` overrules the recognised pre-tokenizer.
    `progress(done, total)` hears the bytes of weights written. `allow_nan` lets weights pass
    that are not finite. The target appears when it is complete, or not at all.

    Raises ConversionError: one line, what is wrong and what to do.
    """
    source, target = Path(source), Path(target)
    outtype = parse_outtype(outtype)
    check_target_name(target, source)
    config = Config.load(source)
    architecture = architecture_for(config)
    tensors = open_tensors(source)
    # The tensors come first: once they match, no size in config.json is larger than a real file.
    matched = match_tensors(architecture, architecture.tensors(), tensors.values())
    vocabulary = read_vocabulary(source, config, pre)
    architecture.adapt_vocabulary(vocabulary)
    if outtype == "auto":
        outtype = guess_outtype(tensor for _, tensor in matched)
    outputs = [
        Output(tensor.name, tensor, GGMLQuantizationType.F32)
        for tensor in architecture.extra_tensors()
    ]
    for plan, tensor in matched:
        kind = tensor_type(plan.target, plan.shape, outtype)
        outputs.append(Output(plan.target, tensor, kind, plan.transform))
    n_parameters = sum(math.prod(output.shape) for output in outputs)

    writer = GGUFWriter(None, architecture.name)
    writer.add_type(GGUFType.MODEL)
    card_note = write_model_card(writer, source, n_parameters)
    architecture.write_hyperparameters(writer)
    writer.add_file_type(FILE_TYPES[outtype])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    vocabulary.write(writer)
    notes = [*architecture.notes, *vocabulary.notes, *([card_note] if card_note else [])]
    if outtype == "q8_0":
        notes += _fallback_notes(outputs)
    n_bytes = write_file(
        writer, outputs, target, progress=progress, allow_nan=allow_nan, overwrite=overwrite
    )
    return ConversionReport(
        architecture=architecture.name,
        target=target,
        outtype=outtype,
        n_tensors=len(outputs),
        n_parameters=n_parameters,
        n_bytes=n_bytes,
        pre_tokenizer=vocabulary.pre,
        notes=tuple(notes),
    )


def parse_outtype(text: str) -> str:
    """An outtype as this package spells it, from llama.cpp's names in any case.

    Raises ConversionError for a type nobody here can write.
    """
    outtype = text.strip().lower()
    if outtype != "auto" and outtype not in FILE_TYPES:
        known = ", ".join(["auto", *FILE_TYPES])
        raise ConversionError(f"unknown outtype {text[:40]!r}: choose one of {known}")
    return outtype


def guess_outtype(tensors: Iterable[Tensor]) -> str:
    """The type of the first half-precision matrix, "f16" if there is none (llama.cpp's rule)."""
    for tensor in tensors:
        if len(tensor.shape) >= 2 and tensor.dtype in ("BF16", "F16"):
            return tensor.dtype.lower()
    return "f16"


def match_tensors(
    architecture: Architecture, plans: dict[str, TensorPlan], tensors: Iterable[Tensor]
) -> list[tuple[TensorPlan, Tensor]]:
    """Pair the checkpoint's tensors with their plans, in the checkpoint's order.

    Raises CheckpointError when one is missing, unknown, of another shape or no float.
    """
    matched: list[tuple[TensorPlan, Tensor]] = []
    waiting = dict(plans)
    left_out: Counter[str] = Counter()
    for tensor in tensors:
        name = architecture.source_name(tensor.name)
        owner = architecture.left_out(name)
        if owner is not None:
            left_out[owner] += 1
            continue
        plan = waiting.pop(name, None)
        if plan is None:
            raise CheckpointError(
                f"unexpected tensor {tensor.name[:120]!r}: config.json has no place for it"
            )
        if tensor.shape != plan.shape:
            raise CheckpointError(
                f"tensor {tensor.name!r} has shape {list(tensor.shape)}, "
                f"config.json calls for {list(plan.shape)}"
            )
        if tensor.dtype not in Tensor.NUMPY_TYPES:
            raise CheckpointError(
                f"tensor {tensor.name!r} is {tensor.dtype}: only F32, F16 and BF16 convert"
            )
        matched.append((plan, tensor))
    if waiting:
        raise CheckpointError(
            f"the checkpoint lacks tensor {next(iter(waiting))!r} ({len(waiting)} missing in all)"
        )
    architecture.notes += [
        f"left out: {owner} ({count} tensors)" for owner, count in left_out.items() if owner
    ]
    return matched


def _fallback_notes(outputs: Iterable[Output]) -> list[str]:
    names = [output.name for output in outputs if output.kind is GGMLQuantizationType.F16]
    if not names:
        return []
    return [f"F16 instead of Q8_0 where rows are no multiple of 32: {', '.join(sorted(names))}"]
