"""Methods that take the options of a generation as keywords, which editors and notebooks show."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from trimix_edge.decoding.options import GenerationOptions

_P = ParamSpec("_P")
_Self = TypeVar("_Self")
_Input = TypeVar("_Input")
_Result = TypeVar("_Result")


def takes(
    options: Callable[_P, GenerationOptions],
) -> Callable[
    [Callable[[_Self, _Input, GenerationOptions], _Result]],
    Callable[Concatenate[_Self, _Input, _P], _Result],
]:
    """Give a method the options' fields as keyword arguments.

    Args:
        options: :class:`GenerationOptions`: its signature becomes that of the method.
    """

    def decorate(
        method: Callable[[_Self, _Input, GenerationOptions], _Result],
    ) -> Callable[Concatenate[_Self, _Input, _P], _Result]:
        own = list(inspect.signature(method).parameters.values())[:2]
        fields = inspect.signature(GenerationOptions).parameters.values()
        signature = inspect.Signature([*own, *fields])

        @wraps(method)
        def call(self: _Self, prompt: _Input, *args: _P.args, **named: _P.kwargs) -> _Result:
            try:
                signature.bind(self, prompt, *args, **named)
            except TypeError as error:  # it would name the options' class, which nobody called
                raise TypeError(f"{method.__name__}() {error}") from None
            return method(self, prompt, options(*args, **named))

        call.__signature__ = signature  # type: ignore[attr-defined]
        return cast("Callable[Concatenate[_Self, _Input, _P], _Result]", call)

    return decorate
