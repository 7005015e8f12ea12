"""The errors that trimix-edge raises.

TriMixError
├── UsageError              an option's value makes no sense, whatever the files say
├── ModelLoadError          a GGUF file cannot be read or is no text model
├── TrioConfigError         a trio.toml, or a set of files, does not describe a trio
├── VocabMismatchError      the models do not share a tokenizer
├── ConversionError         a checkpoint can't become a GGUF file
├── QuantizeError           llama.cpp can't quantise a file
├── ImatrixError            an importance matrix can't be made, read or used
├── EvaluationError         benchmark data, prompt templates or results cannot be used
├── HubError                the Hugging Face Hub lacks or refuses something, or is out of reach
├── BundleError             what a bundle is to be made of is missing, or not for its target
├── TargetError             a file can't be written where it should be
├── DiskSpaceError          a disk has no room for what is to be written
├── ContextError            a context could not be made (not enough memory, say)
├── ContextOverflowError    a prompt does not fit into the context
├── PromptCacheError        a prompt cache is damaged, or of other models
├── PromptError             a prompt or a conversation cannot be used as it is
├── TemplateError           a chat template is missing, broken, or does what it must not
├── GrammarError            llama.cpp does not accept a grammar
├── RpcError                a machine that computes for this one can't be used, or was lost
└── DecodeError             llama_decode failed, or its logits are of no use

Each message is one line: what is wrong, where, and what to do. The command line prints it and
exits with 1; a :class:`UsageError` exits with 2.
"""

from __future__ import annotations

import warnings


class Notice(UserWarning):
    """Something that a person should know, and that stops nothing: see :func:`notice`."""


def notice(message: str) -> None:
    """Tell something once, as a warning of the kind :class:`Notice`; the command line prints it."""
    warnings.warn(message, Notice, stacklevel=2)


_process = {"is_command_line": False}


def take_process() -> None:
    """Say that this process is the command line's own. There, what ggml can't go on from ends it
    with one line; a program that uses the library keeps what ggml does, ``abort()``, and whatever
    the program has set up for that."""
    _process["is_command_line"] = True


def owns_process() -> bool:
    """Whether :func:`take_process` was called."""
    return _process["is_command_line"]


class TriMixError(Exception):
    """Base of all errors that a caller may want to show to a person."""


class UsageError(TriMixError, ValueError):
    """An option's value makes no sense, whatever the files say."""


class ModelLoadError(TriMixError):
    """A GGUF file cannot be read or is no text model."""


class TrioConfigError(TriMixError):
    """A trio.toml, or a set of files, does not describe a trio."""


class VocabMismatchError(TriMixError):
    """The models do not share a tokenizer."""


class ConversionError(TriMixError):
    """A checkpoint can't become a GGUF file: what :mod:`trimix_convert` has to say about it."""


class QuantizeError(TriMixError):
    """llama.cpp can't quantise a file."""


class ImatrixError(TriMixError):
    """An importance matrix can't be made, can't be read, or is of another model."""


class EvaluationError(TriMixError):
    """Benchmark data, prompt templates or a folder of results cannot be used."""


class HubError(TriMixError):
    """The Hugging Face Hub lacks or refuses something, or is out of reach."""


class BundleError(TriMixError):
    """What a bundle is to be made of is missing, damaged, or not for its target."""


class TargetError(TriMixError):
    """A file can't be written where it should be."""


class DiskSpaceError(TriMixError):
    """A disk has no room for what is to be written; the message tells how much is needed."""


class ContextError(TriMixError):
    """A context could not be made."""


class ContextOverflowError(TriMixError):
    """A prompt does not fit into the context.

    Attributes:
        n_prompt: tokens of the prompt.
        n_ctx: tokens that the context holds.
    """

    def __init__(self, n_prompt: int, n_ctx: int) -> None:
        super().__init__(
            f"the prompt has {n_prompt} tokens, the context holds {n_ctx} and needs one of them "
            f"for the answer: shorten the prompt or raise n_ctx"
        )
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class PromptCacheError(TriMixError):
    """A prompt cache is damaged, or of other models."""


class PromptError(TriMixError):
    """A prompt or a conversation cannot be used as it is."""


class TemplateError(TriMixError):
    """A chat template is missing, broken, or does what it must not."""


class GrammarError(TriMixError):
    """llama.cpp does not accept a grammar."""


class RpcError(TriMixError):
    """A machine that computes for this one can't be reached, is something else, or was lost; or
    llama.cpp's RPC module is missing. A trio that has lost one must be loaded anew."""


class DecodeError(TriMixError):
    """llama_decode failed, or its logits are of no use.

    Attributes:
        role: the model's role, as in ``trio.toml``; ``fusion`` when no single model is to blame.
        code: what ``llama_decode`` returned, 0 if it succeeded.
    """

    def __init__(self, role: str, code: int, detail: str = "") -> None:
        super().__init__(f"{role}: {detail or f'llama_decode failed with code {code}'}")
        self.role = role
        self.code = code
