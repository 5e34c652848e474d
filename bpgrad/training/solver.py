"""A solver as the trainer drives it, whoever wrote its class: what its step is given, its modes."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bpgrad.errors import FOREIGN, BPGradError, ConfigError, SolverError, first_line
from bpgrad.training import capturable
from bpgrad.training.config import SolverSpec, is_plain
from bpgrad.training.optimizers import (
    Matrices,
    attribute,
    build_optimizers,
    requires_closure,
    takes_loss,
    with_inner,
    with_modes,
)
from bpgrad.training.schedule import factor, recorded_rates

SCALARS = ("step_size", "grad_norm")  # recorded an iteration, of solvers that have them
# recorded an epoch, likewise, and what a number above 0 means
COUNTERS = {
    "skipped_steps": "were skipped: loss or gradient not finite",
    "negative_losses": "had a negative loss, where BPGrad's bounds do not hold",
    "exceeded_steps": "had a gradient norm above L, where BPGrad's bounds do not hold",
}

# What `val_collapsed` means, which tasks record that can end so.
COLLAPSED = "collapsed to background: next to nothing is called anything else"


def reservations(result: Mapping[str, Any]) -> Iterator[str]:
    """What has to be said of a run that has finished: what is not finite, what was counted."""
    for name, value in result.items():
        if value is None:
            yield f"warning: the run has finished, but {name} is not finite"
    if result.get("val_collapsed"):
        yield f"warning: {COLLAPSED}; the settings failed, and the loss does not show it"
    for name, meaning in COUNTERS.items():
        if result.get(name):
            yield f"warning: {result[name]:.0f} of {result['iterations']:.0f} steps {meaning}"


class Solver:
    """An optimizer with what its class wants beside gradients: loss, closure, modes, groups.

    `optimizers` are several where a group of parameters has an optimizer of its own. `evaluations`
    counts gradients: one an iteration, and one for every call of a closure; `objective` is the
    latest that was differentiated. `unsaved` says why a run cannot be resumed, `remarks` what a
    user should know; both are empty for the usual solver.

    Raises ConfigError if the optimizer cannot be made of these settings.
    """

    def __init__(
        self,
        spec: SolverSpec,
        model: nn.Module,
        multipliers: Mapping[str, float],
        device: torch.device | None = None,
        decays: Mapping[str, float] | None = None,
    ) -> None:
        self.device = torch.device("cpu") if device is None else device
        if self.device.type == "cuda" and is_plain(spec):
            arguments = capturable.arguments_on_cuda(spec.optimizer, spec.arguments)
            spec = replace(spec, arguments=arguments)
        self.spec = spec
        self.matrices = Matrices(spec.where)
        self.optimizers: list[Optimizer] = build_optimizers(
            spec, model, multipliers, self.matrices, decays
        )
        self.parts = [part for made in self.optimizers for part in with_inner(made)]
        self.closures = [spec.closure or requires_closure(type(made)) for made in self.optimizers]
        self.uses_closure = any(self.closures)
        self.loss_aware = [takes_loss(made) for made in self.optimizers]
        if self.uses_closure and len(self.optimizers) > 1:
            raise ConfigError(f"{spec.where}: a closure goes with one optimizer, not with several")
        named = [*model.named_parameters(), *self.matrices.pairs]
        self._rates = _rates(spec, self._groups(), named, multipliers)
        self._an_epoch = self._total = 0  # iterations, where the rate depends on them
        self._epoch_factor = 1.0
        self._replayed: Sequence[float] = ()
        self._table: Tensor | None = None  # groups × iterations of an epoch: rates on the device
        self.feedback = LossFeedback(spec.objective, self, self.device)
        self.scalar_names = [name for name in SCALARS if self.scalar(name) is not None]
        self.training: bool | None = None
        self.objective = torch.zeros(())  # of the latest backward pass
        self.evaluations = 0
        self.unsaved = ""
        self.remarks: list[str] = []
        if spec.create_graph:
            warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph=True")

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers."""
        return [group for made in self.optimizers for group in made.param_groups]

    def _groups(self) -> list[dict[str, Any]]:
        """Those of wrapped optimizers too, each once."""
        found = (group for part in self.parts for group in part.param_groups)
        return list({id(group): group for group in found}.values())

    def set_length(self, epochs: int, iterations: int) -> None:
        """Say how long the run is, in epochs of so many iterations, for `schedule` and `replay`.

        Raises ConfigError where no group has a rate, or the recorded rates are not as many.
        """
        if not (self.spec.schedule or self.spec.replay):
            return
        if all(initial is None for initial, _ in self._rates):
            raise ConfigError(f"{self.spec.where} has no lr, hence neither schedule nor replay")
        self._an_epoch, self._total = iterations, epochs * iterations
        if self.spec.replay:
            self._replayed = recorded_rates(Path(self.spec.replay), self._total)

    def set_learning_rate(self, epoch: int) -> float | None:
        """Set every group's rate for an epoch (from 1), and return the common factor's product.

        The rate is a function of the epoch alone, hence needs no state in a checkpoint. Without
        `lr_factors` and multipliers no rate is touched: an optimizer may have one that it adapts.
        Under a schedule it is that of the epoch's first iteration. None if there is no `lr`.
        """
        defaults = getattr(self.optimizers[0], "defaults", {})
        base = self.spec.arguments.get("lr", defaults.get("lr"))
        passed = [factor for start, factor in self.spec.lr_factors.items() if start <= epoch]
        self._epoch_factor = passed[-1] if passed else 1.0
        if self._table is not None:
            first = (epoch - 1) * self._an_epoch
            rows = [self._rates_at(first + k) for k in range(self._an_epoch)]
            self._table.copy_(torch.tensor(rows, dtype=torch.float64).t())
        elif self.spec.lr_factors or any(multiplier != 1 for _, multiplier in self._rates):
            self._set_rates(self._rates_by(self._epoch_factor))
        if self._replayed:
            return self._replayed[(epoch - 1) * self._an_epoch]
        scheduled = self._scheduled((epoch - 1) * self._an_epoch)
        return None if base is None else base * self._epoch_factor * scheduled

    def set_iteration(self, iteration: int) -> None:
        """Set every group's rate for an iteration (from 0, of the run): `schedule` or `replay`.

        Called after `set_learning_rate` of its epoch; a function of the iteration alone as well.
        """
        if self._total and self._table is None:
            self._set_rates(self._rates_at(iteration))

    def put_rates_on_device(self) -> None:
        """Let the rates of a schedule lie where a captured step reads them, if its class can.

        Then `follow_schedule` does what `set_iteration` does. Call it after any state is loaded.
        """
        types = [capturable.rate_type(made) for made in self.optimizers]
        if not self._total or not is_plain(self.spec) or None in types:
            return
        groups = self._groups()
        self._table = torch.zeros(
            len(groups), self._an_epoch, dtype=torch.float64, device=self.device
        )
        for made, dtype in zip(self.optimizers, types, strict=True):
            for group in made.param_groups:
                group["lr"] = torch.zeros((), dtype=dtype, device=self.device)

    def follow_schedule(self, at: Tensor) -> None:
        """Set the rates that lie on the device to those of the epoch's iteration `at`, (1,)."""
        if self._table is not None:
            for group, rates in zip(self._groups(), self._table, strict=True):
                group["lr"].copy_(rates.index_select(0, at).view(()))

    def rates(self) -> tuple[Any, ...]:
        """What a captured step has fixed: the rates that are numbers, and which tensors are not."""
        found = (group.get("lr") for group in self._groups())
        return tuple(id(rate) if isinstance(rate, Tensor) else rate for rate in found)

    def obstacle_to_capture(self) -> str:
        """Why a CUDA graph cannot capture the step; empty if it can."""
        if not is_plain(self.spec) or self.uses_closure:
            return f"{self.spec.where} is not known to do without the host"
        found = next(filter(None, map(capturable.obstacle, self.optimizers)), "")
        if not found and self._total and self._table is None:
            return f"{self.spec.where} has a learning rate on the host, which changes at each step"
        return found

    def replayed(self, count: int) -> None:
        """Count steps that a captured graph has taken."""
        self.evaluations += count
        for optimizer in self.optimizers:
            capturable.count_replays(optimizer, count)

    def _scheduled(self, iteration: int) -> float:
        spec = self.spec
        if not (spec.schedule and self._total):
            return 1.0
        return factor(spec.schedule, iteration, self._total, spec.warmup)

    def _rates_at(self, iteration: int) -> list[Any]:
        """The rate of each group in an iteration of the run under `schedule` or `replay`."""
        if self._replayed:
            return [self._replayed[iteration]] * len(self._rates)
        return self._rates_by(self._epoch_factor * self._scheduled(iteration))

    def _rates_by(self, by: float) -> list[Any]:
        """The rate of each group, its initial one times a factor; None where it has none."""
        return [
            None if initial is None else initial * by * multiplier
            for initial, multiplier in self._rates
        ]

    def _set_rates(self, rates: Sequence[Any]) -> None:
        for group, rate in zip(self._groups(), rates, strict=True):
            if rate is not None:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        with self._named("zero_grad"):
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        self.matrices.zero_grad()

    def backward(self, objective: Tensor) -> None:
        """Add the objective's gradients to those of the parameters."""
        self.objective = objective.detach()
        # An optimizer that has the model may have hung its steps into the backward pass.
        with self._named("backward") if self.spec.parameters == "model" else nullcontext():
            objective.backward(create_graph=self.spec.create_graph)
        self.matrices.take_gradients()

    def step(self, objective: Tensor, examples: int, evaluate: Callable[[], Tensor]) -> None:
        """Make a step from the gradients of a minibatch of so many examples.

        `evaluate` computes the objective and the gradients of the same minibatch again, from zero,
        at the weights as they are then; it is what a closure does. Raises SolverError, one line,
        for whatever the optimizer raises.
        """
        self.evaluations += 1
        with self._named("step"):
            loss = self.feedback(objective, examples) if any(self.loss_aware) else objective
            for optimizer, closure, aware in zip(
                self.optimizers, self.closures, self.loss_aware, strict=True
            ):
                if closure:
                    optimizer.step(lambda: self._evaluate_again(evaluate))  # type: ignore[arg-type, return-value]
                elif aware:
                    optimizer.step(loss=loss)  # type: ignore[call-overload]
                else:
                    optimizer.step()

    def _evaluate_again(self, evaluate: Callable[[], Tensor]) -> Tensor:
        self.evaluations += 1
        with torch.enable_grad():
            return evaluate()

    def training_mode(self) -> None:
        """Put the weights where gradients are taken, of optimizers that evaluate elsewhere."""
        self._switch(training=True)

    def evaluation_mode(self) -> None:
        """Put the weights where the optimizer wants to be judged (Schedule-Free and the like)."""
        self._switch(training=False)

    def _switch(self, *, training: bool) -> None:
        # Not once more than needed: there and back need not give the same bits.
        if self.training is not training:
            name = "train" if training else "eval"
            with self._named(name):
                for optimizer in self.optimizers:
                    for part in with_modes(optimizer):
                        try:
                            getattr(part, name)()
                        except AttributeError as error:
                            # A wrapper that passes the call on to one that has no modes.
                            if error.name != name or error.obj is part:
                                raise
        self.training = training

    def scalars(self) -> list[Tensor]:
        """The values of `scalar_names` now, each of shape (1,); NaN for what is no number."""
        found = (self.scalar(name) for name in self.scalar_names)
        return [
            torch.full((1,), torch.nan, device=self.device) if value is None else value
            for value in found
        ]

    def scalar(self, name: str) -> Tensor | None:
        """A number that the optimizer, or one it wraps, keeps as an attribute; shape (1,)."""
        for part in self.parts:
            value = attribute(part, name)
            if isinstance(value, Tensor) and value.numel() == 1:
                return value.detach().reshape(1).to(self.device, torch.float32)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return torch.tensor([value], dtype=torch.float32, device=self.device)
        return None

    def counters(self) -> dict[str, int]:
        """What is counted since the beginning, by name."""
        found: dict[str, int] = {}
        for name in COUNTERS:
            value = attribute(self.parts[-1], name)
            if isinstance(value, int | Tensor):
                found[name] = int(value)
        if self.uses_closure:
            found["evaluations"] = self.evaluations
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the weights, in whichever mode it is."""
        with self._named("state_dict"):
            states = [made.state_dict() for made in self.optimizers]
        return {
            "optimizer": states[0] if len(states) == 1 else states,
            "feedback": self.feedback.sums,
            "training": self.training,
            "evaluations": self.evaluations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state; the weights are loaded afterwards."""
        # A mode may be kept in an attribute; with nothing to convert yet it is only set.
        if state.get("training") is not None:
            self._switch(training=state["training"])
        states = state["optimizer"] if len(self.optimizers) > 1 else [state["optimizer"]]
        for optimizer, its in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(its)
        self.feedback.sums.copy_(state["feedback"])
        self.evaluations = state.get("evaluations", 0)

    @contextmanager
    def _named(self, doing: str) -> Iterator[None]:
        try:
            yield
        except BPGradError:
            raise
        except FOREIGN as error:
            raise SolverError(
                f"{self.spec.where} fails in {doing}: {type(error).__name__}: {first_line(error)}"
            ) from error


def _rates(
    spec: SolverSpec,
    groups: Sequence[Mapping[str, Any]],
    named: Sequence[tuple[str, nn.Parameter]],
    multipliers: Mapping[str, float],
) -> list[tuple[Any, float]]:
    """The initial rate of each group (None if it has none) and its multiplier."""
    if not spec.lr_multipliers:
        return [(group.get("lr"), 1.0) for group in groups]
    factor = {id(p): multipliers.get(name, 1.0) for name, p in named}
    found = []
    for group in groups:
        its = {factor.get(id(parameter), 1.0) for parameter in group["params"]}
        if len(its) > 1:
            raise ConfigError(f"{spec.where} regroups parameters: lr_multipliers cannot be kept")
        found.append((group.get("lr"), its.pop() if its else 1.0))
    return found


class LossFeedback:
    """The loss that a loss-aware solver is told (`solver.objective`), kept on the device.

    batch               the minibatch objective
    epoch_mean          the example-weighted mean over the epoch so far (the authors' code)
    regularized_batch   the minibatch objective + Σ λ/2 ‖w‖², whose gradient is g + λw
    constant            1, so that with ρ = 0 and L = 1 the step η of BPGrad is its lr
    previous_epoch_mean the example-weighted mean over the epoch before, whose weights moved; in the
                        first epoch, which has none before, the first minibatch's objective

    `sums` is the state: Σ objective · examples and Σ examples of the epoch so far and, of
    previous_epoch_mean, what is told in this epoch (NaN: nothing yet).
    """

    def __init__(self, kind: str, optimizer: Optimizer | Solver, device: torch.device) -> None:
        self.kind = kind
        self.optimizer = optimizer
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        if kind == "previous_epoch_mean":
            self.sums = torch.tensor([0, 0, torch.nan], dtype=torch.float64, device=device)

    def start_epoch(self) -> None:
        if self.kind == "previous_epoch_mean":  # NaN stays where there was no epoch: 0 / 0
            self.sums[2] = self.sums[0] / self.sums[1]
        self.sums[:2] = 0

    @torch.no_grad()
    def __call__(self, objective: Tensor, examples: int) -> Tensor:
        """The solver's loss for a minibatch of so many examples; a 0-dim tensor."""
        if self.kind == "constant":
            return torch.ones_like(objective)
        if self.kind in ("epoch_mean", "previous_epoch_mean"):
            self.sums[0] += objective * examples
            self.sums[1] += examples
            told = self.sums[0] / self.sums[1]
            if self.kind == "previous_epoch_mean":
                told = torch.where(self.sums[2].isnan(), told, self.sums[2])
                self.sums[2] = told
            return told.to(objective.dtype)
        if self.kind == "regularized_batch":
            for group in self.optimizer.param_groups:
                decay = group.get("weight_decay", 0.0)
                if decay:
                    for parameter in group["params"]:
                        objective = objective + decay / 2 * parameter.square().sum()
        return objective
