"""Options that several verbs share, named as in llama.cpp, and what they add up to."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from trimix_edge import values
from trimix_edge.cli.console import stderr
from trimix_edge.config import (
    ContextParams,
    Draft,
    FusionWeights,
    Role,
    SamplingParams,
)
from trimix_edge.errors import PromptError, TriMixError
from trimix_edge.files import text_from_outside
from trimix_edge.trios.manifest import TrioManifest

_MODELS, _FUSION, _SAMPLING, _MACHINE = "Models", "Fusion", "Sampling", "Machine"


def _option(help_: str, panel: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=panel, show_default=False, **settings)


Trio = Annotated[
    str | None,
    typer.Argument(metavar="[TRIO]", help="As for generate.", show_default=False),
]

LargeIns = Annotated[
    Path | None, _option("The large instruction-tuned model, a GGUF file.", _MODELS)
]
SmallCpt = Annotated[Path | None, _option("The small model trained on the language.", _MODELS)]
SmallBase = Annotated[Path | None, _option("The small model before that training.", _MODELS)]

Weights = Annotated[
    str | None,
    _option(
        "Weights of large_ins and small_cpt, as in 0.1,0.9; small_base has the rest. auto: those "
        "under which the prompt is likeliest, by its tokens of the trio's script if it names one; "
        "auto:SCRIPT, as auto:Tibt: by those of this script; auto:all: by all; entropy: those "
        "surest of the first token.",
        _FUSION,
    ),
]
Rule = Annotated[
    str | None,
    _option(
        "trimix, or a rival: proxy (Proxy Tuning), average, saf or saf:HOST (SAF-W), single:ROLE.",
        _FUSION,
    ),
]
Mask = Annotated[
    str | None,
    _option(
        "Only tokens that a model finds likely enough: small_cpt:0.1.", _FUSION, "--plausibility"
    ),
]

Greedy = Annotated[
    bool, _option("The bare fused argmax, every sampler off.", _SAMPLING, "--greedy")
]
Temperature = Annotated[
    float | None,
    _option(
        "0 takes the likeliest token. If absent, what the trio says; 0.8 for files without a "
        "trio.toml.",
        _SAMPLING,
        "--temperature",
        "--temp",
    ),
]
TopK = Annotated[int | None, _option("Keep the k likeliest tokens; 0 is off.", _SAMPLING)]
TopP = Annotated[
    float | None, _option("Keep the likeliest tokens up to this mass; 1 is off.", _SAMPLING)
]
MinP = Annotated[
    float | None,
    _option("Keep tokens at least this likely beside the likeliest; 0 is off.", _SAMPLING),
]
Typical = Annotated[
    float | None,
    _option("Locally typical sampling; 1 is off.", _SAMPLING, "--typical-p", "--typical"),
]
TopNSigma = Annotated[
    float | None,
    _option(
        "Keep logits within n sigma of the top; -1 is off.",
        _SAMPLING,
        "--top-n-sigma",
        "--top-nsigma",
    ),
]
XtcProbability = Annotated[float | None, _option("Chance of XTC; 0 is off.", _SAMPLING)]
XtcThreshold = Annotated[float | None, _option("Threshold of XTC.", _SAMPLING)]
RepeatPenalty = Annotated[
    float | None, _option("Divides logits of repeated tokens; 1 is off.", _SAMPLING)
]
RepeatLastN = Annotated[
    int | None, _option("Tokens that penalties look back over; 0 is off, -1 is all.", _SAMPLING)
]
FrequencyPenalty = Annotated[
    float | None, _option("Grows with each repetition; 0 is off.", _SAMPLING)
]
PresencePenalty = Annotated[float | None, _option("For any repetition; 0 is off.", _SAMPLING)]
DryMultiplier = Annotated[float | None, _option("Strength of DRY; 0 is off.", _SAMPLING)]
DryBase = Annotated[float | None, _option("Base of DRY.", _SAMPLING)]
DryAllowedLength = Annotated[int | None, _option("Repetition that DRY allows.", _SAMPLING)]
Mirostat = Annotated[
    int | None, _option("1 or 2 for that version of Mirostat; 0 is off.", _SAMPLING)
]
MirostatTau = Annotated[
    float | None,
    _option("Mirostat's target entropy.", _SAMPLING, "--mirostat-tau", "--mirostat-ent"),
]
MirostatEta = Annotated[
    float | None, _option("Mirostat's learning rate.", _SAMPLING, "--mirostat-eta", "--mirostat-lr")
]
Seed = Annotated[
    int | None, _option("Repeats a sampled generation; drawn if absent.", _SAMPLING, "--seed", "-s")
]
Grammar = Annotated[
    Path | None, _option("A GBNF grammar, a file, that the output must follow.", _SAMPLING)
]

MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        "--n-predict",
        "-n",
        help="Tokens to generate at most; -1 is as many as the context holds. What the trio says, "
        "or 1024, if absent.",
        show_default=False,
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="The output ends before this string; may be repeated.", show_default=False),
]

DraftLength = Annotated[
    str | None,
    _option(
        "Tokens that small_cpt drafts and all models verify at once: auto, off or a number. It can "
        "change the text where two tokens are nearly equally likely, as llama.cpp rounds batches "
        "otherwise; see --repeatable.",
        _MACHINE,
        "--draft",
    ),
]
Repeatable = Annotated[
    bool,
    _option(
        "The text depends on the prompt, the settings and this machine alone. llama.cpp rounds "
        "otherwise in batches of another size, which can change a word; with this, nothing is "
        "drafted, one generation runs at a time, and no part of a prompt is reused.",
        _MACHINE,
        "--repeatable",
    ),
]
PromptCache = Annotated[
    Path | None,
    _option("Keep the state of the models in this file, and begin with it.", _MACHINE),
]

Ctx = Annotated[
    int | None,
    _option(
        "Tokens the context holds; 0 is what the models were trained on.",
        _MACHINE,
        "--ctx",
        "--ctx-size",
        "-c",
    ),
]
Batch = Annotated[
    int | None,
    _option("Tokens of the prompt evaluated at once.", _MACHINE, "--batch", "--batch-size", "-b"),
]
Threads = Annotated[
    int | None, _option("CPU threads; one a physical core if absent.", _MACHINE, "--threads", "-t")
]
GpuLayers = Annotated[
    list[str] | None,
    _option(
        "[ROLE=]N layers on a GPU; all if absent, 0 is none.",
        _MACHINE,
        "--gpu-layers",
        "--n-gpu-layers",
        "-ngl",
    ),
]
Rpc = Annotated[
    list[str] | None,
    _option(
        "[ROLE=]HOST:PORT[,HOST:PORT...]: machines that run rpc-server and compute the layers of "
        "a role, or of all; --gpu-layers says how many layers.",
        _MACHINE,
        "--rpc",
    ),
]
RpcSplit = Annotated[
    str | None,
    _option("The share of each server of --rpc, as in 2,1; by free memory if absent.", _MACHINE),
]
RpcOutput = Annotated[
    bool,
    _option(
        "Let a server compute the output layer too: more memory there, more traffic.",
        _MACHINE,
        "--rpc-output",
    ),
]
Parallel = Annotated[
    int | None,
    _option(
        "Generations at once; as many as have room, up to 16, if absent.",
        _MACHINE,
        "--parallel",
        "-np",
    ),
]
KvType = Annotated[
    str | None, _option("Type of the KV cache: f16, q8_0, ...", _MACHINE, "--kv-type")
]


def weights_json(weights: FusionWeights | None) -> dict[str, float] | None:
    """The three weights by role, for ``--json``; None where no pair was in force throughout."""
    if weights is None:
        return None
    return {str(role): getattr(weights, role.value) for role in Role}


def draft(
    text: str | None, manifest: TrioManifest, weights: str | None, *, repeatable: bool = False
) -> Draft | None:
    """The length of drafts; says so, once, where one is asked for that nothing can write."""
    if text is None:
        return None
    parsed = values.draft(text)
    if repeatable and parsed.n_tokens != 0:
        stderr.print("(--draft: nothing is drafted with --repeatable)", style="dim")
        return parsed
    in_force = manifest.weights if weights is None else values.weights(weights)
    # Weights chosen by prompt may give any role something.
    roles = in_force.roles if isinstance(in_force, FusionWeights) else tuple(Role)
    if parsed.n_tokens != 0 and (Role.SMALL_CPT not in roles or len(roles) < 2):
        why = "small_cpt has no weight" if Role.SMALL_CPT not in roles else "it is alone"
        stderr.print(f"(--draft: {why}, only text that repeats itself is drafted)", style="dim")
    return parsed


def parallel(given: int | None, manifest: TrioManifest, context: ContextParams) -> int:
    """Generations at once: what was given, or what fits into memory."""
    from trimix_edge.gguf import DEFAULT_N_CTX
    from trimix_edge.planning.parallel import default_parallel

    if given is not None:
        given = replace(context, n_parallel=given).n_parallel  # checks the range
    if context.repeatable:
        return 1
    if given is not None:
        return given
    paths = [path for path in manifest.models.values() if path.exists()]
    return default_parallel(paths, context.n_ctx or DEFAULT_N_CTX, context.kv_type)


def every_sampler_off() -> dict[str, Any]:
    """All settings of a bare argmax, to be laid over a manifest's."""
    return {f.name: getattr(SamplingParams(), f.name) for f in fields(SamplingParams)}


def read_stdin() -> str:
    """All of standard input: see :func:`text_from_outside`.

    Raises:
        PromptError: it is not UTF-8, or closed.
    """
    data = sys.stdin.buffer.read()
    try:
        return text_from_outside(data)
    except UnicodeDecodeError as error:
        raise PromptError(
            f"standard input is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        ) from None


def read_text(path: Path, what: str, kind: type[TriMixError]) -> str:
    """The text in a file, see :func:`text_from_outside`; an error of this kind where there is
    none."""
    try:
        return text_from_outside(path.read_bytes())
    except UnicodeDecodeError as error:
        raise kind(f"{what} {path} is not UTF-8: byte {error.start} is invalid") from None
    except OSError as error:
        raise kind(f"{what} {path}: {error.strerror or error}") from None
