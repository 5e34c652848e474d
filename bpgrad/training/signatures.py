"""The signature of a class as the schema of its YAML file: names, required ones, types."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from bpgrad.errors import ConfigError


def import_object(path: Any, key: str) -> Any:
    """The object that a dotted path names.

    Raises ConfigError naming `key` if there is none.
    """
    module, _, attribute = str(path).rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{key}={path}: cannot be imported ({error}); write package.module.Name"
        ) from error


def check_arguments(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    group: str,
    *,
    reserved: Sequence[str] = (),
    given: int = 0,
) -> None:
    """Check keyword arguments against a signature: names, required ones, and types.

    `given` leading parameters are supplied by the caller. Raises ConfigError.
    """
    parameters = list(inspect.signature(function).parameters.values())
    allowed = {
        p.name: p for p in parameters[given:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    init = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(init)
    except (NameError, TypeError):
        hints = {}
    for name, value in arguments.items():
        if name not in allowed and not open_ended:
            raise ConfigError(unknown(f"{group}.{name}", [*reserved, *allowed], prefix=f"{group}."))
        hint = hints.get(name, Any)
        if not _fits(value, hint):
            expected = inspect.formatannotation(hint).replace("typing.", "")
            raise ConfigError(f"{group}.{name}={value!r}: expected {expected}")
    for name, parameter in allowed.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ConfigError(f"{group}.{name}: required by {function.__qualname__}; set it")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value may stand where a parameter is annotated with `hint`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if origin in (tuple, list):
        wanted = list(parts) if origin is tuple and Ellipsis not in parts else None
        return isinstance(value, list | tuple) and (
            len(wanted) == len(value) and all(map(_fits, value, wanted))
            if wanted is not None
            else all(_fits(item, parts[0]) for item in value)
        )
    return isinstance(hint, type) and isinstance(value, hint) if isinstance(hint, type) else True


def unknown(key: str, choices: Sequence[str], prefix: str = "") -> str:
    """The line for an unknown key or choice: a near match if there is one, and all choices."""
    word = key.removeprefix(prefix)
    near = difflib.get_close_matches(word, choices, n=1)
    hint = f"did you mean {prefix}{near[0]}? " if near else ""
    return f"unknown {key}: {hint}choices: {', '.join(choices)}"
