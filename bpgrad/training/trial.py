"""A foreign optimizer is tried on a copy of the model before it may train the model itself."""

import io
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bpgrad.errors import FOREIGN, BPGradError, ConfigError, SolverError, first_line
from bpgrad.training.config import GroupRule, SolverSpec, is_plain
from bpgrad.training.optimizers import requires_closure
from bpgrad.training.solver import SCALARS, Solver

FIRST_STEPS, MORE_STEPS, MOST_STEPS = 2, 6, 32  # some optimizers act only after many steps
PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size)


def make_solver(
    spec: SolverSpec,
    model: nn.Module,
    multipliers: Mapping[str, float],
    device: torch.device | None = None,
    *,
    decays: Mapping[str, float] | None = None,
    always: bool = False,
) -> Solver:
    """The solver of a model; of a foreign class (or `always`) only after a trial on a copy of it.

    Where the class cannot do with the layout of the weights (channels_last), they get the
    contiguous one. Raises ConfigError that names what fails and, if that is known, what to write.
    """
    if is_plain(spec) and not requires_closure(spec.optimizer) and not always:
        return Solver(spec, model, multipliers, device, decays)
    with _own_randomness(device):
        trial, contiguous = _tried(spec, model, multipliers, device, decays)
    if contiguous:
        _make_contiguous(model)
    solver = Solver(spec, model, multipliers, device, decays)
    solver.unsaved, solver.scalar_names = trial.unsaved, trial.scalar_names
    if contiguous:
        solver.remarks.append(
            f"{spec.where} cannot do with channels_last weights: they are contiguous, with the "
            "same values"
        )
    if solver.unsaved:
        solver.remarks.append(
            f"{spec.where}: {solver.unsaved}; the run keeps no checkpoint, and begins again if it "
            "is stopped"
        )
    return solver


def _tried(
    spec: SolverSpec,
    model: nn.Module,
    multipliers: Mapping[str, float],
    device: torch.device | None,
    decays: Mapping[str, float] | None,
) -> tuple[Solver, bool]:
    """A solver that has worked on a copy of the model, and whether contiguous weights were needed.

    Raises ConfigError: with the change of the settings that makes it work, if one does.
    """
    try:
        return _trial(spec, deepcopy(model), multipliers, device, decays), False
    except BPGradError as error:
        failure = error
    contiguous = _make_contiguous(deepcopy(model))
    pairs = zip(model.parameters(), contiguous.parameters(), strict=True)
    if any(one.stride() != other.stride() for one, other in pairs):
        try:
            return _trial(spec, deepcopy(contiguous), multipliers, device, decays), True
        except BPGradError as error:
            failure = error
    for text, changed in _alternatives(spec):
        try:
            _trial(changed, deepcopy(contiguous), multipliers, device, decays)
        except BPGradError:
            continue
        raise ConfigError(f"{failure}; it works with the line {text}") from failure
    raise ConfigError(str(failure)) from failure


def _alternatives(spec: SolverSpec) -> Iterator[tuple[str, SolverSpec]]:
    """Other ways of driving the same class, as one would write them."""
    yield "closure: true", replace(spec, closure=True)
    yield "create_graph: true", replace(spec, create_graph=True)
    if spec.groups or spec.lr_multipliers:
        return
    yield "parameters: named", replace(spec, parameters="named")
    yield "parameters: model", replace(spec, parameters="model")
    adam = GroupRule({"lr": 1e-3}, optimizer=torch.optim.AdamW)
    its = "rest: true, optimizer: torch.optim.AdamW, lr: 0.001"
    for ndim in (2, 4), (2,):  # weights; those of convolutions too
        flags = (GroupRule({"use_muon": True}, ndim), GroupRule({"use_muon": False}))
        text = f"groups: [{{ndim: {list(ndim)}, use_muon: true}}, {{rest: true, use_muon: false}}]"
        yield text, replace(spec, groups=flags)
        text = f"groups: [{{ndim: {list(ndim)}}}, {{{its}}}]"
        yield text, replace(spec, groups=(GroupRule({}, ndim), adam))


@torch.enable_grad()  # some foreign code that fails leaves gradients switched off
def _trial(
    spec: SolverSpec,
    model: nn.Module,
    multipliers: Mapping[str, float],
    device: torch.device | None,
    decays: Mapping[str, float] | None,
) -> Solver:
    """A few steps on the sum over the parameters of mean((w - a)²), saved and loaded on the way.

    The solver returned says in `unsaved` why a run could not be resumed bit by bit, if so.
    """
    make = partial(Solver, spec, multipliers=multipliers, device=device, decays=decays)
    start = deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(p.shape, generator=generator).to(p) for p in model.parameters()]
    solver = make(model)
    try:
        _seed(0)
        _steps(solver, model, targets, FIRST_STEPS)
        saved, unsaved = _saved(model, solver)
        _seed(1)
        _steps(solver, model, targets, MORE_STEPS)
        if not unsaved:
            unsaved = _resumed(make, start, saved, targets, model)
        done = FIRST_STEPS + MORE_STEPS
        while _same(start, model) and done < MOST_STEPS:
            _steps(solver, model, targets, MORE_STEPS)
            done += MORE_STEPS
        solver.evaluation_mode()
    except FOREIGN as error:  # in hooks too
        if all(parameter.isfinite().all() for parameter in model.parameters()):
            if isinstance(error, BPGradError):
                raise
            raise SolverError(
                f"{spec.where} fails: {type(error).__name__}: {first_line(error)}"
            ) from error
        unsaved = ""  # it diverges on this problem, which says nothing of others
    else:
        if _same(start, model):
            raise ConfigError(f"{spec.where}: {done} steps have not changed a weight")
    solver.unsaved = unsaved
    solver.scalar_names = [name for name in SCALARS if solver.scalar(name) is not None]
    return solver


def _steps(solver: Solver, model: nn.Module, targets: Sequence[Tensor], count: int) -> None:
    def evaluate() -> Tensor:
        solver.zero_grad()
        pairs = zip(model.parameters(), targets, strict=True)
        objective = torch.stack([(p - a).square().mean() for p, a in pairs]).sum()
        solver.backward(objective)
        return objective.detach()

    solver.training_mode()
    for _ in range(count):
        solver.step(evaluate(), 1, evaluate)


def _saved(model: nn.Module, solver: Solver) -> tuple[Any, str]:
    """The state as a checkpoint gives it back, and why it does not, if so."""
    try:
        state = {"model": model.state_dict(), **solver.state_dict()}
    except SolverError as error:
        return None, f"its state cannot be saved ({error})"
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True), ""
    except FOREIGN as error:  # of pickle, torch, and foreign classes that want no pickling
        kind = next(_not_plain(state), "") or first_line(error)
        return None, f"its state cannot be saved as tensors and plain values ({kind})"


def _not_plain(value: Any) -> Iterator[str]:
    """The types in a state that are neither tensors nor plain values."""
    if isinstance(value, Mapping) and type(value) in (dict, OrderedDict):
        for item in value.values():
            yield from _not_plain(item)
    elif type(value) in (list, tuple, set):
        for item in value:
            yield from _not_plain(item)
    elif not isinstance(value, Tensor) and type(value) not in PLAIN:
        yield type(value).__name__


def _resumed(
    make: Callable[[nn.Module], Solver],
    start: nn.Module,
    saved: Mapping[str, Any],
    targets: Sequence[Tensor],
    expected: nn.Module,
) -> str:
    """Why a run that is resumed from `saved` would not go on with the same bits; empty if it does.

    Python's and NumPy's generators are not in a checkpoint: here they differ.
    """
    model = deepcopy(start)
    try:
        solver = make(model)
        solver.load_state_dict(saved)
        model.load_state_dict(saved["model"])
        _seed(1, others=2)
        _steps(solver, model, targets, MORE_STEPS)
    except FOREIGN as error:
        return f"its state cannot be loaded ({type(error).__name__}: {first_line(error)})"
    return "" if _same(model, expected) else "its state_dict lacks part of its state"


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def _make_contiguous(model: nn.Module) -> nn.Module:
    # Not .contiguous(): what has one channel counts as that with the strides of channels_last too.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return model


def _seed(seed: int, others: int | None = None) -> None:
    torch.manual_seed(seed)
    random.seed(seed if others is None else others)
    np.random.seed(seed if others is None else others)  # noqa: NPY002 foreign code draws from it


@contextmanager
def _own_randomness(device: torch.device | None) -> Iterator[None]:
    """Leave every random generator as it was, and Python's and NumPy's as the run's seed says."""
    devices = [torch.cuda.current_device()] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002
