"""A whole trio by name: three GGUF files and a ``trio.toml`` in one folder.

Ready quantised files are downloaded where there are any, checkpoints are converted where not. A
file that has its name is whole, so a second pull finds what the first one made, and asks no one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trimix_edge.config import Role
from trimix_edge.errors import ModelLoadError, TargetError, UsageError
from trimix_edge.files import replacing
from trimix_edge.gguf import read_gguf
from trimix_edge.hub import client
from trimix_edge.hub.checkpoint import RemoteCheckpoint, find_checkpoint, require_room
from trimix_edge.hub.client import Listing, OutOfReachError, Progress, RemoteFile
from trimix_edge.hub.make import DIRECT_TYPES, make_gguf
from trimix_edge.hub.presets import DEFAULT_QUANTIZATION, Preset, PresetModel
from trimix_edge.hub.trio_file import trio_toml
from trimix_edge.llama.calibration import CalibrationText
from trimix_edge.llama.model import NORMALIZER_KEY
from trimix_edge.llama.quantize import COPY, parse_quantization
from trimix_edge.trios.manifest import MANIFEST, TrioManifest

_PART = r"-(\d{5})-of-(\d{5})"


@dataclass(frozen=True)
class PulledModel:
    """One file of a pulled trio.

    Attributes:
        how: ``present`` before, ``downloaded`` as it is, or ``converted``.
        notes: what the conversion had to say.
    """

    path: Path
    how: str
    n_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PullReport:
    """What :func:`pull` made, or found: ``trio`` is the ``trio.toml``."""

    trio: Path
    quantization: str
    models: Mapping[Role, PulledModel]


def pull(
    preset: Preset,
    folder: Path,
    quantization: str = DEFAULT_QUANTIZATION,
    *,
    imatrix_texts: Sequence[CalibrationText] = (),
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> PullReport:
    """Make a folder with a preset's three models and a ``trio.toml``.

    Args:
        folder: made if it does not exist; files of the same preset and type stay as they are.
        imatrix_texts: quantise with importance matrices made from these texts. All models are
            converted then: ready quantised files were made with others, or with none.
        overwrite: fetch and convert everything again, and replace the ``trio.toml``.

    Raises:
        UsageError: no such quantisation.
        HubError, ConversionError, QuantizeError: a model can't be had.
        DiskSpaceError: not enough room for all of it; raised before anything is downloaded.
        TargetError: the folder can't be written, or holds a ``trio.toml`` of other models.
    """
    quantization = parse_quantization(quantization)
    if imatrix_texts and quantization.lower() in DIRECT_TYPES:
        raise UsageError(f"{quantization} takes no importance matrix: choose a type such as IQ3_M")
    if quantization == COPY:
        raise UsageError(f"{COPY} is not a type that a model can be pulled as")
    if folder.exists() and not folder.is_dir():
        raise TargetError(f"{folder} is not a folder")
    stems = {role: f"{model.hub_id.name}-{quantization}" for role, model in preset.models.items()}
    present = {} if overwrite else _present(folder, stems, with_matrix=bool(imatrix_texts))
    keeps_trio = not overwrite and _describes(folder / MANIFEST, stems)
    plans = {
        role: _plan(model, stems[role], quantization, imatrix_texts)
        for role, model in preset.models.items()
        if role not in present
    }
    _require_room(preset, plans, folder, quantization)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TargetError(f"{folder} can't be made: {error.strerror or error}") from None
    made = {role: plan.carry_out(folder, on_progress) for role, plan in plans.items()}
    models = {role: present.get(role) or made[role] for role in preset.models}
    if not keeps_trio:
        names = {role: model.path.name for role, model in models.items()}
        with replacing(folder / MANIFEST) as temporary:
            text = trio_toml(preset, quantization, names, _normalizer(models))
            temporary.write_text(text, encoding="utf-8")
    return PullReport(folder / MANIFEST, quantization, models)


def _normalizer(models: Mapping[Role, PulledModel]) -> str | None:
    """What the converted files know of their tokenizer, and ready quantised files do not."""
    found = (read_gguf(model.path).get(NORMALIZER_KEY, str) for model in models.values())
    return next(filter(None, found), None)


def _present(
    folder: Path, stems: Mapping[Role, str], *, with_matrix: bool
) -> dict[Role, PulledModel]:
    """The models that are whole already, whether in one file or in parts; perhaps only those that
    were quantised with an importance matrix."""
    found = {}
    for role, stem in stems.items():
        for path in (folder / f"{stem}.gguf", *sorted(folder.glob(f"{stem}-00001-of-*.gguf"))):
            try:
                file = read_gguf(path)
            except ModelLoadError:
                continue
            if with_matrix and "quantize.imatrix.file" not in file.metadata:
                continue
            found[role] = PulledModel(path, "present", file.n_bytes)
            break
    return found


def _describes(trio: Path, stems: Mapping[Role, str]) -> bool:
    """Whether there is a trio.toml, for these very models; a person may have changed the rest.

    Raises:
        TargetError: there is one for other models.
    """
    if not trio.exists():
        return False
    names = {role: path.name for role, path in TrioManifest.read(trio).models.items()}
    for role, stem in stems.items():
        if not re.fullmatch(rf"{re.escape(stem)}({_PART})?\.gguf", names.get(role, "")):
            raise TargetError(
                f"{trio} names other models: pull into another folder with --to, or replace it "
                f"with --force"
            )
    return True


@dataclass(frozen=True)
class _Download:
    """Files that are ready on the Hub: one, or the parts of one."""

    listing: Listing
    files: tuple[RemoteFile, ...]
    stem: str

    n_bytes_to_cache = 0

    def peak_bytes(self, n_final: int) -> int:
        return sum(file.n_bytes for file in self.files)

    def carry_out(self, folder: Path, on_progress: Progress | None) -> PulledModel:
        # Whole parts wait here for the rest, also from one pull to the next.
        waiting = folder / f".{self.stem}.download"
        try:
            client.fetch(self.listing, self.files, on_progress, into=waiting)
            # The first part comes last: its name says that all are there.
            for file in reversed(self.files):
                part = re.search(_PART, file.name)
                path = folder / f"{self.stem}{part[0] if part else ''}.gguf"
                (waiting / file.name).replace(path)
        finally:
            if not any(waiting.glob("*.gguf")):
                shutil.rmtree(waiting, ignore_errors=True)
        return PulledModel(path, "downloaded", read_gguf(path).n_bytes)


@dataclass(frozen=True)
class _Conversion:
    """A checkpoint, on the Hub or in the cache, that is converted and quantised here."""

    model: PresetModel
    checkpoint: RemoteCheckpoint | Path
    stem: str
    quantization: str
    imatrix_texts: Sequence[CalibrationText] = ()

    @property
    def n_bytes_to_cache(self) -> int:
        return 0 if isinstance(self.checkpoint, Path) else self.checkpoint.n_bytes_to_fetch

    def peak_bytes(self, n_final: int) -> int:
        if isinstance(self.checkpoint, Path):
            return n_final
        return max(n_final, self.checkpoint.working_bytes(self.quantization))

    def carry_out(self, folder: Path, on_progress: Progress | None) -> PulledModel:
        checkpoint = self.checkpoint
        if isinstance(checkpoint, RemoteCheckpoint):
            checkpoint = checkpoint.fetch(on_progress)
        made = make_gguf(
            checkpoint,
            folder / f"{self.stem}.gguf",
            outtype=self.quantization,
            name=self.model.hub_id.name,
            imatrix_texts=self.imatrix_texts,
            overwrite=True,
            on_progress=on_progress,
        )
        return PulledModel(made.target, "converted", made.n_bytes, made.notes)


def _plan(
    model: PresetModel, stem: str, quantization: str, texts: Sequence[CalibrationText]
) -> _Download | _Conversion:
    """How to come by a model; asks the Hub."""
    if model.gguf is not None and not texts:
        with suppress(OutOfReachError):
            listing = client.list_files(model.gguf)
            files = _ready_files(listing, model.hub_id.name, quantization)
            if files:
                return _Download(listing, files, stem)
    return _Conversion(model, find_checkpoint(model.hub_id), stem, quantization, texts)


def _ready_files(listing: Listing, name: str, quantization: str) -> tuple[RemoteFile, ...]:
    """The file of that type in a repository of GGUF files, or all its parts in order."""
    spelling = {"F16": "f(p)?16"}.get(quantization, re.escape(quantization))
    stem = rf"{re.escape(name)}[-.]{spelling}"
    if whole := listing.matching(rf"{stem}\.gguf"):
        return (whole[0],)
    parts = sorted(listing.matching(rf"{stem}{_PART}\.gguf"), key=lambda file: file.name)
    expected = [f"-{i + 1:05d}-of-{len(parts):05d}" for i in range(len(parts))]
    complete = all(end in part.name for end, part in zip(expected, parts, strict=True))
    return tuple(parts) if complete else ()


def _require_room(
    preset: Preset,
    plans: Mapping[Role, _Download | _Conversion],
    folder: Path,
    quantization: str,
) -> None:
    """All files stay; of what lies about during a conversion, only the largest counts."""
    final = {
        role: preset.models[role].sizes.get(quantization, plan.peak_bytes(0))
        for role, plan in plans.items()
    }
    passing = [plan.peak_bytes(final[role]) - final[role] for role, plan in plans.items()]
    n_working = sum(final.values()) + max(passing, default=0)
    n_to_cache = sum(plan.n_bytes_to_cache for plan in plans.values())
    require_room(folder, n_working, n_to_cache, preset.name)
