"""The signature of a class as the schema of its YAML file: names, required ones, types."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

from bpgrad.errors import FOREIGN, ConfigError, first_line
from bpgrad.suite import RIVALS


def import_object(path: Any, key: str) -> Any:
    """The object that a dotted path names.

    Raises ConfigError naming `key` if there is none.
    """
    module, _, attribute = str(path).rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except FOREIGN as error:
        how = "write package.module.Name"
        if isinstance(error, ModuleNotFoundError) and error.name in RIVALS:
            how = "pip install 'bpgrad[rivals]'"
        raise ConfigError(
            f"{key}={path}: cannot be imported ({first_line(error)}); {how}"
        ) from error


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """A callable's parameters; `*args, **kwargs` where it does not say."""
    return list(_parameters_of(function))


@lru_cache(maxsize=256)
def _parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of a class written in C, or with a broken signature
        kinds = {"args": inspect.Parameter.VAR_POSITIONAL, "kwargs": inspect.Parameter.VAR_KEYWORD}
        return [inspect.Parameter(name, kind) for name, kind in kinds.items()]


@lru_cache(maxsize=256)
def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A callable's annotations, resolved; none if one of them cannot be."""
    init = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:
        return typing.get_type_hints(init)
    except FOREIGN:  # of evaluating annotations
        return {}


def call(function: Callable[..., Any], first: Any, arguments: Mapping[str, Any]) -> Any:
    """Call with a leading argument and keywords, each passed as the signature takes it.

    Positional-only parameters are filled in order; a leading one that is keyword-only by its name.
    """
    rest = dict(arguments)
    parameters = parameters_of(function)
    leading = parameters[0] if parameters else None
    if leading is not None and leading.kind is leading.KEYWORD_ONLY:
        return function(**{leading.name: first}, **rest)
    only = [p for p in parameters[1:] if p.kind is p.POSITIONAL_ONLY]
    count = max((k for k, p in enumerate(only, 1) if p.name in rest), default=0)
    positional = [rest.pop(p.name, p.default) for p in only[:count]]
    return function(first, *positional, **rest)


def check_arguments(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    group: str,
    *,
    reserved: Sequence[str] = (),
    given: int = 0,
    supplied: Sequence[str] = (),
) -> None:
    """Check named arguments against a signature: names, required ones, and types.

    `given` leading parameters, and those in `supplied`, come from the caller. Raises ConfigError.
    """
    parameters = parameters_of(function)
    named = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    allowed = {p.name: p for p in parameters[given:] if p.kind in named}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    hints = hints_of(function)
    for name, value in arguments.items():
        if name not in allowed and not open_ended:
            raise ConfigError(unknown(f"{group}.{name}", [*reserved, *allowed], prefix=f"{group}."))
        hint = hints.get(name, Any)
        if not _fits(value, hint):
            raise ConfigError(f"{group}.{name}={value!r}: expected {_words(hint)}")
    for name, parameter in allowed.items():
        required = parameter.default is parameter.empty and name not in supplied
        if required and name not in arguments:
            raise ConfigError(f"{group}.{name}: required by {function.__qualname__}; set it")


def _words(hint: Any) -> str:
    """An annotation as a user reads it: float or 'auto'."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, parts))
    if origin is typing.Literal:
        return " or ".join(map(repr, parts))
    if hint in (None, type(None)):
        return "null"
    return inspect.formatannotation(hint).replace("typing.", "")


@contextmanager
def without_dynamo() -> Iterator[None]:
    """While entered, to make an optimizer does not import torch._dynamo, which takes seconds.

    It gives torch a form of `add_param_group` that the compiler passes over, and torch keeps that
    in an attribute: here the method itself. Where torch does otherwise, this changes nothing.
    """
    from torch.optim import Optimizer

    plain, kept = getattr(Optimizer.add_param_group, "__wrapped__", None), "__dynamo_disable"
    if plain is None or hasattr(plain, kept):
        yield
        return
    setattr(plain, kept, plain)
    try:
        yield
    finally:
        delattr(plain, kept)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value may stand where a parameter is annotated with `hint`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
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
    if hint in (tuple, list):
        return isinstance(value, list | tuple)
    if origin in (tuple, list):
        wanted = list(parts) if origin is tuple and Ellipsis not in parts else None
        return isinstance(value, list | tuple) and (
            len(wanted) == len(value) and all(map(_fits, value, wanted))
            if wanted is not None
            else all(_fits(item, parts[0]) for item in value)
        )
    try:
        return not isinstance(hint, type) or isinstance(value, hint)
    except TypeError:  # a protocol that is not for isinstance
        return True


def unknown(key: str, choices: Sequence[str], prefix: str = "") -> str:
    """The line for an unknown key or choice: a near match if there is one, and all choices."""
    word = key.removeprefix(prefix)
    near = difflib.get_close_matches(word, choices, n=1)
    hint = f"did you mean {prefix}{near[0]}? " if near else ""
    return f"unknown {key}: {hint}choices: {', '.join(choices)}"
