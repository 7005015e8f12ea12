"""From a checkpoint, in a folder or on the Hub, to one GGUF file of any type."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trimix_convert

from trimix_edge.errors import ConversionError, ImatrixError, QuantizeError, UsageError
from trimix_edge.files import check_gguf_target, scratch_file
from trimix_edge.hub.checkpoint import ADAPTER_CONFIG, find_base_folder, find_folder
from trimix_edge.hub.client import Progress
from trimix_edge.llama.calibration import CalibrationText
from trimix_edge.llama.imatrix import collect_imatrix
from trimix_edge.llama.quantize import parse_quantization, quantize

DIRECT_TYPES = ("auto", "f32", "f16", "bf16", "q8_0")
"""Types that the converter writes itself; any other takes llama.cpp's quantiser as well."""

_Convert = Callable[..., trimix_convert.ConversionReport]


@dataclass(frozen=True)
class MadeGguf:
    """A GGUF file that was made of a checkpoint.

    Attributes:
        type: as written: what ``auto`` chose, or the quantisation.
        notes: what a reader ought to know: parts left out, types changed.
    """

    target: Path
    architecture: str
    type: str
    n_parameters: int
    n_bytes: int
    notes: tuple[str, ...] = ()


def make_gguf(
    source: str | Path,
    target: Path,
    *,
    outtype: str = "auto",
    name: str | None = None,
    base: str | Path | None = None,
    pre: str | None = None,
    allow_nan: bool = False,
    imatrix: Path | None = None,
    imatrix_texts: Sequence[CalibrationText] = (),
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> MadeGguf:
    """Convert, and quantise if ``outtype`` asks for it. The target appears whole, or not at all.

    Args:
        source: a folder, or a Hub id ``owner/name[@revision]``: a checkpoint or a PEFT adapter.
        outtype: one of :data:`DIRECT_TYPES`, or any name that llama.cpp quantises to.
        name: what progress calls the model; the end of ``source`` if absent.
        base: of an adapter, the checkpoint that it was trained on, a folder or a Hub id; what the
            adapter itself names if absent. Only its ``config.json`` is read.
        pre: overrules the recognised pre-tokenizer.
        allow_nan: let weights pass that are not finite.
        imatrix: see :func:`~trimix_edge.llama.quantize.quantize`.
        imatrix_texts: make the importance matrix from these; it is kept beside the target.

    Raises:
        UsageError: an unknown type, or a source that is neither a folder nor a Hub id.
        ConversionError, QuantizeError, HubError, TargetError, DiskSpaceError: see there.
    """
    type_ = _parse_type(outtype)
    if type_ in DIRECT_TYPES and (imatrix is not None or imatrix_texts):
        raise UsageError(f"{type_} takes no importance matrix: choose a type such as IQ3_M")
    name = name or str(source).rstrip("/").rpartition("/")[2]
    check_gguf_target(target, overwrite=overwrite)
    folder = find_folder(source, type_, target.parent, on_progress)
    convert: _Convert = partial(
        _converter(folder, type_, base, pre),
        allow_nan=allow_nan,
        progress=_labelled(on_progress, f"converting {name}"),
    )
    with _told():
        if type_ in DIRECT_TYPES:
            report = convert(target, outtype=type_, overwrite=overwrite)
            return _made(report, target, report.outtype, report.n_bytes)
    with scratch_file(target) as whole:
        with _told():
            report = convert(whole, outtype="auto")
        try:
            if imatrix_texts:
                imatrix = target.with_suffix(".imatrix.gguf")
                told = _labelled(on_progress, f"importance matrix of {name}")
                _collect(whole, imatrix, imatrix_texts, told)
            quantized = quantize(
                whole,
                target,
                type_,
                imatrix=imatrix,
                overwrite=overwrite,
                on_progress=_labelled(on_progress, f"quantising {name}"),
            )
        except (ImatrixError, QuantizeError) as error:  # no one has heard of the scratch file
            text = str(error).replace(str(whole), str(source)).replace(whole.name, name)
            raise type(error)(text) from None
    made = _made(report, target, type_, quantized.n_bytes)
    return replace(made, notes=made.notes + quantized.notes)


def _collect(
    model: Path,
    target: Path,
    texts: Sequence[CalibrationText],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Make an importance matrix; progress is told in bytes of the texts, as all else here."""
    n_bytes = sum(len(text.text.encode()) for text in texts)

    def on_chunk(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(n_bytes * done // total, n_bytes)

    collect_imatrix(model, target, texts, overwrite=True, on_progress=on_chunk)


def _parse_type(outtype: str) -> str:
    if outtype.lower() in DIRECT_TYPES:
        return outtype.lower()
    try:
        return parse_quantization(outtype)
    except UsageError as error:
        raise UsageError(f"{error}, or auto") from None


def _converter(folder: Path, type_: str, base: str | Path | None, pre: str | None) -> _Convert:
    """The converter for what the folder holds: a checkpoint, or else an adapter."""
    if (folder / "config.json").is_file() or not (folder / ADAPTER_CONFIG).is_file():
        return partial(trimix_convert.convert_checkpoint, folder, pre=pre)
    if type_ not in DIRECT_TYPES:
        raise UsageError(f"an adapter can be {', '.join(DIRECT_TYPES)}, but not {type_}")
    base_folder = find_base_folder(str(base) if base else _named_base(folder))
    return partial(_convert_adapter, folder, base_folder)


def _convert_adapter(
    folder: Path, base: Path, target: Path, *, outtype: str, **settings: object
) -> trimix_convert.ConversionReport:
    if outtype == "auto":
        outtype = "f32"  # thin matrices: half precision would save next to nothing
    convert: _Convert = trimix_convert.convert_adapter
    return convert(folder, target, base=base, outtype=outtype, **settings)


def _named_base(adapter: Path) -> str:
    try:
        content = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = content["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        base = None
    if not isinstance(base, str) or not base:
        raise UsageError(f"{adapter} does not name its base model: say which with --base")
    return base


def _labelled(on_progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else partial(on_progress, label)


def _made(
    report: trimix_convert.ConversionReport, target: Path, type_: str, n_bytes: int
) -> MadeGguf:
    return MadeGguf(target, report.architecture, type_, report.n_parameters, n_bytes, report.notes)


@contextmanager
def _told() -> Iterator[None]:
    """The converter has a tree of errors of its own; here they join ours."""
    try:
        yield
    except trimix_convert.ConversionError as error:
        raise ConversionError(str(error)) from error
