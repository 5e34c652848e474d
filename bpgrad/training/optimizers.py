"""Optimizers made as their constructors want it: of parameters, groups, a model, each other."""

import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import partialmethod
from typing import Any

from torch import nn
from torch.optim import Optimizer

from bpgrad.errors import FOREIGN, ConfigError, first_line
from bpgrad.training.config import GroupRule, OptimizerSpec, SolverSpec
from bpgrad.training.signatures import call, hints_of, parameters_of

Named = list[tuple[str, nn.Parameter]]
DECAY = "weight_decay"  # as every optimizer calls it


class Matrices:
    """Parameters that an optimizer is given as matrices, in the same storage."""

    def __init__(self, where: str) -> None:
        self.where = where  # the solver, for messages
        self.pairs: Named = []  # name and matrix
        self.parameters: list[nn.Parameter] = []

    def of(self, name: str, parameter: nn.Parameter) -> nn.Parameter:
        """The matrix (shape[0], rest) of a parameter.

        Raises ConfigError where its layout in memory is another one (channels_last).
        """
        try:
            matrix = nn.Parameter(parameter.detach().view(parameter.shape[0], -1))
        except RuntimeError as error:
            raise ConfigError(f"{self.where}: groups: flatten: {name} is not contiguous") from error
        self.pairs.append((name, matrix))
        self.parameters.append(parameter)
        return matrix

    def take_gradients(self) -> None:
        """Give the matrices the gradients of their parameters.

        Raises ConfigError where an optimizer has put its weights elsewhere.
        """
        for (name, matrix), parameter in zip(self.pairs, self.parameters, strict=True):
            if matrix.data_ptr() != parameter.data_ptr():
                raise ConfigError(f"{self.where}: groups: flatten: {name} is moved to other memory")
            matrix.grad = None if parameter.grad is None else parameter.grad.reshape(matrix.shape)

    def zero_grad(self) -> None:
        """Forget the gradients of the parameters."""
        for parameter in self.parameters:
            parameter.grad = None


def build_optimizers(
    spec: SolverSpec,
    model: nn.Module,
    multipliers: Mapping[str, float],
    matrices: Matrices,
    decays: Mapping[str, float] | None = None,
) -> list[Optimizer]:
    """The optimizer, and one for each group rule that names a class of its own.

    `multipliers` are of the rate, if the solver heeds them, `decays` of the weight decay, if it has
    one; both by parameter name, absent means 1. `matrices` takes up the parameters that a rule
    flattens.
    """
    named = [pair for pair in model.named_parameters() if pair[1].requires_grad]
    rules: Sequence[GroupRule] = spec.groups or (GroupRule({}),)
    taken: list[Named] = [[] for _ in rules]
    for name, parameter in named:
        fitting = (k for k, rule in enumerate(rules) if _takes(rule, name, parameter))
        if (k := next(fitting, None)) is None:
            raise ConfigError(f"{spec.where}: groups: no rule takes {name}; end with rest: true")
        taken[k].append((name, parameter))
    for rule, pairs in zip(rules, taken, strict=True):
        if rule.match and not pairs:
            raise ConfigError(
                f"{spec.where}: groups: match: {rule.match} takes no parameter; there are "
                + ", ".join(name for name, _ in named)
            )
    main: list[tuple[Mapping[str, Any], Named]] = []
    made = []
    for rule, pairs in zip(rules, taken, strict=True):
        if rule.flatten:
            pairs = [(name, matrices.of(name, p) if p.ndim > 2 else p) for name, p in pairs]
        parts = _by_multiplier(pairs, multipliers if spec.lr_multipliers else {}, decays or {})
        if rule.optimizer is None:
            whole = OptimizerSpec(spec.optimizer, {**spec.arguments, **rule.arguments})
            main += [
                ({**rule.arguments, **_decayed(whole, factor)}, part) for factor, part in parts
            ]
        elif pairs:
            its = OptimizerSpec(rule.optimizer, rule.arguments)
            groups = [(_decayed(its, factor), part) for factor, part in parts]
            made.append(_construct(spec, its, groups, model))
    if not main:
        raise ConfigError(f"{spec.where}: groups: no rule leaves it a parameter")
    return [_construct(spec, OptimizerSpec(spec.optimizer, spec.arguments), main, model), *made]


def _takes(rule: GroupRule, name: str, parameter: nn.Parameter) -> bool:
    fits_ndim = not rule.ndim or parameter.ndim in rule.ndim
    return fits_ndim and (not rule.match or fnmatch(name, rule.match))


def _by_multiplier(
    pairs: Named, multipliers: Mapping[str, float], decays: Mapping[str, float]
) -> list[tuple[float, Named]]:
    """Parameters of the same rate and decay together, and their factor of the decay."""
    parts: dict[tuple[float, float], Named] = {}
    for name, parameter in pairs:
        key = multipliers.get(name, 1.0), decays.get(name, 1.0)
        parts.setdefault(key, []).append((name, parameter))
    return [(decay, part) for (_, decay), part in parts.items()]


def _decayed(which: OptimizerSpec, factor: float) -> dict[str, Any]:
    """The weight decay of a group, if it differs from the optimizer's."""
    if factor == 1:
        return {}
    default = next((p.default for p in parameters_of(which.optimizer) if p.name == DECAY), None)
    decay = which.arguments.get(DECAY, default)
    return {DECAY: factor * decay} if isinstance(decay, int | float) else {}


def _construct(
    spec: SolverSpec,
    which: OptimizerSpec,
    groups: Sequence[tuple[Mapping[str, Any], Named]],
    model: nn.Module,
) -> Optimizer:
    """Call a constructor with the parameters as it takes them; one line if it refuses."""
    known = {p.name for p in parameters_of(which.optimizer)}
    for arguments, _ in groups:
        for key in arguments.keys() - known:
            if near := get_close_matches(key, known, n=1, cutoff=0.8):
                raise ConfigError(f"{spec.where}: groups: {key}: did you mean {near[0]}?")

    def parameters() -> Any:  # anew each time: constructors write into groups
        kept = [
            (dict(arguments), list(pairs) if spec.parameters == "named" else [p for _, p in pairs])
            for arguments, pairs in groups
        ]
        if len(kept) == 1 and not kept[0][0]:
            return kept[0][1]
        return [{"params": each, **arguments} for arguments, each in kept]

    try:
        made = _instance(which, parameters, model, first=spec.parameters == "model")
    except FOREIGN as error:  # whatever a foreign constructor raises is about these settings
        raise ConfigError(
            f"solver={spec.name} refuses its settings: {which.optimizer.__qualname__}: "
            f"{first_line(error)}"
        ) from error
    for name in ("step", "zero_grad", "state_dict", "load_state_dict", "param_groups"):
        if not hasattr(made, name):
            raise ConfigError(f"{spec.where} makes a {type(made).__name__}, which has no {name}")
    return made


def _instance(
    which: OptimizerSpec, parameters: Callable[[], Any], model: nn.Module, *, first: bool = False
) -> Any:
    """The optimizer; `first` if the model leads instead of its parameters."""
    signature = parameters_of(which.optimizer)
    given = dict(which.arguments)
    for parameter in signature[1:]:
        if parameter.default is parameter.empty and parameter.name not in given:
            if parameter.name == "model":
                given["model"] = model
            elif parameter.name == "params":
                given["params"] = parameters()
    nested = [name for name, value in given.items() if isinstance(value, OptimizerSpec)]
    errors = []
    for as_class in _ways(which.optimizer, nested[0]) if nested else [False]:
        filled = given | {
            name: _class_of(given[name], model)
            if as_class
            else _instance(given[name], parameters, model)
            for name in nested
        }
        try:
            leading = signature[0].name
            if leading in filled:
                return call(which.optimizer, filled.pop(leading), filled)
            return call(which.optimizer, model if first else parameters(), filled)
        except FOREIGN as error:
            errors.append(error)
    raise errors[0]


def _ways(function: Callable[..., Any], name: str) -> list[bool]:
    """Whether a wrapped optimizer is given as a class (True): first guess first.

    Where the annotation says nothing, a wrapper that takes no parameters itself wants an instance.
    """
    hint = hints_of(function).get(name)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [k for k in (typing.get_args(hint) if union else (hint,)) if "Optimizer" in str(k)]
    if kinds:
        return [all(typing.get_origin(kind) is type for kind in kinds)]
    leads = parameters_of(function)[0].name == name
    return [False, True] if leads else [True, False]


def _class_of(which: OptimizerSpec, model: nn.Module) -> Callable[..., Any]:
    """A class with some arguments given, for a wrapper that makes its own instance of it."""
    cls = which.optimizer
    plain = not any(isinstance(value, OptimizerSpec) for value in which.arguments.values())
    if not (isinstance(cls, type) and plain):
        return lambda parameters, **more: _instance(
            OptimizerSpec(cls, {**which.arguments, **more}), lambda: parameters, model
        )

    its = partialmethod(cls.__init__, **which.arguments)  # type: ignore[misc]
    return type(cls.__name__, (cls,), {"__init__": its, "__module__": cls.__module__})


def takes_loss(optimizer: Optimizer) -> bool:
    """Whether `step` wants to be told the loss."""
    return any(p.name == "loss" for p in parameters_of(type(optimizer).step))


def requires_closure(cls: Any) -> bool:
    """Whether the `step` of a class cannot do without a closure."""
    step = getattr(cls, "step", None)
    parameters = [] if step is None else parameters_of(step)
    closure = {p.name: p for p in parameters}.get("closure")
    return closure is not None and closure.default is closure.empty


def attribute(of: Any, name: str) -> Any:
    """An attribute's value, None where there is none or where a property fails."""
    try:
        return getattr(of, name, None)
    except FOREIGN:
        return None


def with_inner(optimizer: Any) -> Iterator[Any]:
    """The optimizer, then those that it wraps."""
    yield optimizer
    names = set(getattr(optimizer, "__dict__", ()))
    for cls in type(optimizer).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names.update([slots] if isinstance(slots, str) else slots)
    for name in sorted(names):
        value = attribute(optimizer, name)
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not optimizer and _is_optimizer(each):
                yield from with_inner(each)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Optimizer) or (
        hasattr(value, "param_groups") and callable(getattr(value, "step", None))
    )


def with_modes(optimizer: Any) -> Iterator[Any]:
    """What has to be told of training and evaluation: the outermost that can be."""
    if all(callable(attribute(optimizer, name)) for name in ("train", "eval")):
        yield optimizer
        return
    for inner in list(with_inner(optimizer))[1:]:
        if all(callable(attribute(inner, name)) for name in ("train", "eval")):
            yield inner
            return
