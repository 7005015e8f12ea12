"""A PEFT LoRA adapter -> a GGUF adapter: two thin matrices for each adapted projection.

llama.cpp adds `alpha / rank * B @ A` to a weight, with one alpha for the file, and `B @ A` itself
where that alpha is 0. PEFT may scale each module its own way (rank and alpha patterns,
rank-stabilised LoRA, a scale of 0); what the one alpha can't say is multiplied into B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_VERSION, GGUFType, GGUFWriter

from .arch import architecture_for
from .arch.base import Transform
from .config import Config, read_json, require_folder
from .encode import Block, as_float32, tensor_type
from .errors import CheckpointError
from .metadata import write_model_card
from .output import Output, Progress, check_target_name, write_file
from .pickles import read_pickle
from .pipeline import ConversionReport, guess_outtype, parse_outtype
from .safetensors import read_safetensors
from .tensor import Tensor

_PREFIX = "base_model.model."

# PEFT's ways of choosing the first A and B (`init_lora_weights`). Some take what A and B start
# with out of the base model's weights; the adapter then belongs to what is left of them.
_KEEPS_BASE = frozenset({"gaussian", "orthogonal", "eva", "mica"})
_ALTERS_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
# Variants of LoRA that compute something else than B @ A, or for some of the tokens only.
_VARIANTS = (
    *("use_dora", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
    *("alora_invocation_tokens", "layer_replication", "target_parameters"),
    *("fan_in_fan_out", "lora_bias", "trainable_token_indices"),
)


@dataclass(frozen=True)
class Scale:
    """Multiply by a factor, after another change."""

    factor: float
    first: Transform | None = None

    @property
    def granule(self) -> int:
        return self.first.granule if self.first else 1

    def __call__(self, block: Block, dtype: str) -> tuple[Block, str]:
        if self.first is not None:
            block, dtype = self.first(block, dtype)
        return as_float32(block, dtype) * self.factor, "F32"


def convert_adapter(
    source: str | Path,
    target: str | Path,
    *,
    base: str | Path,
    outtype: str = "f32",
    progress: Progress | None = None,
    allow_nan: bool = False,
    overwrite: bool = True,
) -> ConversionReport:
    """Convert the PEFT adapter in the folder `source` to the GGUF adapter `target`.

    `base` is the folder of the checkpoint that the adapter was trained on; only its config.json
    is read. The other options are those of `convert_checkpoint`.

    Raises ConversionError; CheckpointError also for adapters that are more than LoRA, such as
    fully trained embeddings, which have to be merged into their base model first.
    """
    source, target = Path(source), Path(target)
    outtype = parse_outtype(outtype)
    check_target_name(target, source)
    settings = AdapterSettings.load(source)
    architecture = architecture_for(Config.load(Path(base)))
    plans = architecture.tensors()
    pairs = _pairs(source)
    if outtype == "auto":
        outtype = guess_outtype(a for a, _ in pairs.values())
    scales = {name: settings.scale(name) * settings.rank(name) for name in pairs}
    # 0, and what float32 makes 0 of, would mean "no scale" to llama.cpp.
    alpha = next((scale for scale in scales.values() if abs(scale) > 1e-30), 1.0)
    outputs: list[Output] = []
    for name, (a, b) in pairs.items():
        plan = plans.get(architecture.source_name(f"{name}.weight"))
        if plan is None or not plan.target.startswith("blk.") or len(plan.shape) != 2:
            raise CheckpointError(
                f"the adapter changes {name!r:.120}, which llama.cpp can't do while running: "
                "merge it into its base model and convert that"
            )
        rank = settings.rank(name)
        n_out, n_in = plan.shape
        if a.shape != (rank, n_in) or b.shape != (n_out, rank):
            raise CheckpointError(
                f"the adapter of {name!r} is {list(a.shape)} and {list(b.shape)}, rank {rank} on "
                f"the base model calls for {[rank, n_in]} and {[n_out, rank]}"
            )
        wanted = scales[name]
        scaled = plan.transform if wanted == alpha else Scale(wanted / alpha, plan.transform)
        for suffix, tensor, transform in (("lora_a", a, None), ("lora_b", b, scaled)):
            kind = tensor_type(plan.target, tensor.shape, outtype)
            outputs.append(Output(f"{plan.target}.{suffix}", tensor, kind, transform))
    n_parameters = sum(math.prod(output.shape) for output in outputs)

    writer = GGUFWriter(None, architecture.name)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    note = write_model_card(writer, source, -n_parameters)
    writer.add_quantization_version(GGML_QUANT_VERSION)
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
        pre_tokenizer="",
        notes=(note,) if note else (),
    )


class AdapterSettings:
    """adapter_config.json: ranks and scales. Raises CheckpointError for what is not plain LoRA."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self._config = Config(values, path)
        self._default_rank = self._config.integer("r", 8)
        self._default_alpha = self._config.number("lora_alpha", 8)
        self._ranks = self._config.mapping("rank_pattern")
        self._alphas = self._config.mapping("alpha_pattern")
        self._stabilised = self._config.flag("use_rslora")
        if values.get("peft_type", "LORA") != "LORA":
            raise CheckpointError(f"{path}: {str(values.get('peft_type'))[:40]!r} is not LoRA")
        if values.get("modules_to_save"):
            raise CheckpointError(
                f"{path}: the adapter replaces whole modules ({values['modules_to_save']!s:.80}): "
                "merge it into its base model and convert that"
            )
        self._refuse_altered_base(values.get("init_lora_weights"), path)
        for key in _VARIANTS:
            if values.get(key):
                raise CheckpointError(f"{path}: {key!r} is set, llama.cpp's adapters have no such")
        if values.get("bias", "none") != "none":
            raise CheckpointError(f"{path}: the adapter trains biases, llama.cpp's have none")

    @classmethod
    def load(cls, folder: Path) -> AdapterSettings:
        """The settings of the adapter in `folder`. Raises CheckpointError."""
        require_folder(folder)
        path = folder / "adapter_config.json"
        return cls(read_json(path), path)

    @staticmethod
    def _refuse_altered_base(start: Any, path: Path) -> None:
        """Raises CheckpointError unless A and B started without a change of the base weights."""
        if start is None or isinstance(start, bool):
            return
        name = start.lower() if isinstance(start, str) else ""
        if name in _KEEPS_BASE:
            return
        what = "is unknown here, and may have altered"
        if name.startswith(_ALTERS_BASE):
            what = "altered"
        raise CheckpointError(
            f"{path}: 'init_lora_weights' {str(start)[:40]!r} {what} the base model's weights when "
            "training began: merge the adapter into that altered base and convert the result, or "
            "save it with PEFT's path_initial_model_for_weight_conversion"
        )

    def rank(self, module: str) -> int:
        """The rank of a module's pair of matrices."""
        rank = self._by_pattern(self._ranks, module, self._default_rank)
        if rank < 1 or rank != int(rank):
            raise CheckpointError(f"adapter_config.json: rank {rank} of {module!r:.120} cannot be")
        return int(rank)

    def scale(self, module: str) -> float:
        """The factor on `B @ A`: alpha over the rank, or over its root."""
        rank = self.rank(module)
        alpha = self._by_pattern(self._alphas, module, self._default_alpha)
        return alpha / (math.sqrt(rank) if self._stabilised else rank)

    def _by_pattern(self, pattern: Mapping[str, Any], module: str, default: float) -> float:
        """The first entry whose key is the module's name or the end of it.

        PEFT takes the keys for regular expressions; a stranger's are not run here.
        """
        for key in pattern:
            if not all(part.replace("_", "").isalnum() for part in key.split(".")):
                raise CheckpointError(
                    f"adapter_config.json: the pattern {key!r:.80} is no module name: "
                    "merge the adapter into its base model and convert that"
                )
            if module == key or module.endswith(f".{key}"):
                return self._config.number_in(pattern, key)
        return default


def _pairs(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The adapter's matrices A and B by the name of the module they change."""
    path = folder / "adapter_model.safetensors"
    if path.is_file():
        tensors = read_safetensors(path)
    elif (folder / "adapter_model.bin").is_file():
        tensors = read_pickle(folder / "adapter_model.bin")
    else:
        raise CheckpointError(f"no adapter_model.safetensors in {folder}")
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, half = name.removesuffix(".weight").rpartition(".")
        if half not in ("lora_A", "lora_B") or tensor.dtype not in Tensor.NUMPY_TYPES:
            raise CheckpointError(
                f"{path}: {name!r:.120} is no LoRA matrix: "
                "merge the adapter into its base model and convert that"
            )
        halves.setdefault(module.removeprefix(_PREFIX), {})[half] = tensor
    for module, found in halves.items():
        if len(found) != 2:
            raise CheckpointError(f"{path}: {module!r:.120} has only {next(iter(found))}")
    if not halves:
        raise CheckpointError(f"{path} holds no LoRA matrices")
    return {module: (found["lora_A"], found["lora_B"]) for module, found in halves.items()}
