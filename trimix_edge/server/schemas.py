"""Requests: what fields there are, of which type, and which of OpenAI's are refused by name."""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimix_edge.server.errors import ApiError

MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_VALUES = 1 << 17
"""Values of a body, commas and brackets of its texts among them: reading millions would hold up
everybody. No context has room for as many."""

# Fields that OpenAI or llama.cpp know and this server doesn't act on. The listed values mean what
# it does anyway; any other one is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "samplers": (),
    "dynatemp_range": (0, 0.0),
    "dry_sequence_breakers": (),
    "image_data": ([],),
    "lora": ([],),
    "id_slot": (-1,),
    "reasoning_format": ("none", "auto"),
}
# Fields that only label a request: they can't change an answer.
_LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")

Number = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
# pydantic would collect the errors of all items, for each branch of a union.
Texts = Annotated[list[str], Field(fail_fast=True)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
Pairs = Annotated[
    list[Annotated[list[Number], Field(min_length=2, max_length=2)]], Field(fail_fast=True)
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(_Strict):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One turn. A client sends answers back as it got them, so that their empty fields pass."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


Messages = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]


class GenerationRequest(_Strict):
    """What both kinds of completion share: OpenAI's names, llama.cpp's and this project's."""

    CONTENT: ClassVar[str]
    """The field that becomes the prompt."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    n_predict: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    stop: str | Texts | None = None
    seed: Annotated[int, Field(ge=-1, lt=2**32 - 1)] | None = None
    temperature: Number | None = None
    top_k: int | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    top_n_sigma: Number | None = None
    xtc_probability: Number | None = None
    xtc_threshold: Number | None = None
    repeat_penalty: Number | None = None
    repeat_last_n: int | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    dry_multiplier: Number | None = None
    dry_base: Number | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    mirostat: int | None = None
    mirostat_tau: Number | None = None
    mirostat_eta: Number | None = None
    logit_bias: dict[str, Number] | Pairs | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    cache_prompt: bool | None = None
    weights: str | list[Number] | None = None
    rule: str | None = None
    plausibility: str | None = None
    draft: int | str | None = None
    explain: bool | None = None


class ChatRequest(GenerationRequest):
    CONTENT: ClassVar[str] = "messages"

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(GenerationRequest):
    CONTENT: ClassVar[str] = "prompt"

    prompt: str | Texts | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    n_probs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(part, int) for part in self.prompt):
            return [[part for part in self.prompt if isinstance(part, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]


class TokenizeRequest(_Strict):
    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(_Strict):
    tokens: TokenIds


class TemplateRequest(_Strict):
    messages: Messages
    chat_template_kwargs: dict[str, Any] | None = None


_Request = TypeVar("_Request", bound=BaseModel)


def parse(kind: type[_Request], body: bytes) -> _Request:
    """A request of that kind.

    Raises:
        ApiError: 400; the body is not JSON or has too many values; a field is of the wrong type,
            unknown or unsupported.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ApiError(400, f"the body has more than {MAX_VALUES} values", code="too_many_values")
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    if issubclass(kind, GenerationRequest):
        content = _without_neutral(content)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _told(kind, error) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _without_neutral(content: dict[str, Any]) -> dict[str, Any]:
    left = {name: value for name, value in content.items() if name not in _LABELS}
    for name, neutral in _NEUTRAL.items():
        if name in left:
            value = left.pop(name)
            if value is not None and not any(
                type(value) is type(same) and value == same for same in neutral
            ):
                raise ApiError(
                    400, f"{name} is not supported by this server", code="unsupported", param=name
                )
    return left


def _told(kind: type[BaseModel], error: ValidationError) -> ApiError:
    """The first of pydantic's findings, in words of this server; no value is repeated."""
    errors = error.errors(include_url=False, include_input=False)
    # Of a union's branches, the one that came furthest tells most.
    found = max(errors, key=lambda one: len(one["loc"])) if len(errors) > 1 else errors[0]
    path = [
        str(part)
        for part in found["loc"]
        if isinstance(part, int) or (part.isidentifier() and part not in ("str", "float", "int"))
    ]
    param = ".".join(path)
    if found["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in kind.model_fields.items()]
        close = difflib.get_close_matches(path[-1], known, n=1) if len(path) == 1 else []
        hint = f": did you mean {close[0]}?" if close else ""
        return ApiError(
            400, f"{param} is not supported by this server{hint}", code="unsupported", param=param
        )
    if found["type"] == "missing":
        return ApiError(400, f"{param} is missing", code="missing", param=param)
    return ApiError(400, f"{param}: {found['msg']}", code="invalid_value", param=param)
