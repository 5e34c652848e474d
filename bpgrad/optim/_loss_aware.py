"""What BPGrad and Eve share: a step that is given the loss, and scalars that stay on the device."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

# Compiled by torch 2.11 to 2.13 a step loses what it writes to 0-dim float64 tensors on the CPU.
COMPILES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)

Loss = Tensor | float
Closure = Callable[[], Loss]


def buckets(*lists: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Split parallel lists by device and dtype of the first; of a DTensor, take the local part.

    The multi-tensor kernels are fast on lists of one device and dtype only, and a 0-dim factor has
    to lie on the device of the tensors that it multiplies.
    """
    keys = [(tensor.device, tensor.dtype) for tensor in lists[0]]
    kinds = set(keys)
    if len(kinds) == 1:
        yield tuple([_local(tensor) for tensor in column] for column in lists)
        return
    for kind in kinds:
        yield tuple(
            [_local(tensor) for tensor, key in zip(column, keys, strict=True) if key == kind]
            for column in lists
        )


def _local(tensor: Tensor) -> Tensor:
    if type(tensor) in (Tensor, Parameter):  # hasattr alone costs a raised exception
        return tensor
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def check_group(group: dict[str, Any]) -> None:
    """Refuse a learning rate or weight decay that is negative, infinite or NaN.

    Raises:
        ValueError: naming the value, in the words of ``torch.optim``.
    """
    lr, weight_decay = group["lr"], group["weight_decay"]
    if isinstance(lr, Tensor) and lr.dim() != 0:
        raise ValueError(f"Tensor lr must be 0-dim, but has shape {tuple(lr.shape)}")
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"Invalid learning rate: {lr}")
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"Invalid weight_decay value: {weight_decay}")


def check_loss(loss: Any, device: torch.device) -> Loss:
    """Return the loss; refuse what is neither a number nor a 0-dim tensor on ``device``.

    Raises:
        ValueError: for another shape or device.
        TypeError: for another type.
    """
    if isinstance(loss, Tensor):
        if loss.dim() != 0:
            raise ValueError(f"Expected a 0-dim loss, but got shape {tuple(loss.shape)}")
        if loss.device != device:
            raise ValueError(f"Expected loss on {device}, but got one on {loss.device}")
    elif not isinstance(loss, Real):
        raise TypeError(f"Expected loss to be a 0-dim tensor or a float, but got {type(loss)}")
    checked: Loss = loss
    return checked


def first_group(name: str, doc: str) -> property:
    """A property that reads a 0-dim tensor of the first group, detached from what comes."""

    def read(self: Optimizer) -> Tensor:
        scalar: Tensor = self.param_groups[0][name]
        return scalar.clone()

    return property(read, doc=doc)


class LossAwareOptimizer(Optimizer):
    """Base of the optimizers whose step depends on the value of the loss.

    Their scalars are 0-dim tensors in ``param_groups`` (what is global lies in the first group), so
    that ``state_dict``, ``deepcopy`` and pickling carry them and no step reads one on the host.
    """

    #: Names of the 0-dim tensors that a group may hold.
    _scalars: tuple[str, ...]
    _observed: Loss | None = None  # handed over for the next step

    def observe(self, loss: Loss) -> None:
        """Hand over the loss of the next ``step()``, where a loop leaves no way to pass it there.

        It replaces one that was handed over before and not used, by a step that ``GradScaler`` left
        out, say. With gradient accumulation hand over the loss whose gradient was accumulated. ::

            loss.backward()
            optimizer.observe(loss)
            optimizer.step()

        Args:
            loss: 0-dim, on the parameters' device, or a float; as for ``step(loss=loss)``.

        Raises:
            ValueError: if the loss is not 0-dim or lies on another device.
            TypeError: if the loss is neither a tensor nor a number.
        """
        check_loss(loss, self._device())
        self._observed = loss.detach() if isinstance(loss, Tensor) else loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: for complex parameters.
        """
        super().add_param_group(param_group)
        if any(p.is_complex() for p in self.param_groups[-1]["params"]):
            del self.param_groups[-1]
            raise ValueError(
                f"{type(self).__name__} does not support complex parameters: "
                "pass torch.view_as_real of them"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; later steps do not write into ``state_dict``, as torch's own would."""
        super().load_state_dict(deepcopy(state_dict))

    def _device(self) -> torch.device:
        """The device of the first parameter, where the scalars live."""
        for group in self.param_groups:
            for param in group["params"]:
                return param.device
        return torch.device("cpu")

    def _new_scalar(self, value: float, dtype: torch.dtype | None = None) -> Tensor:
        """A 0-dim tensor beside the parameters: float64 (float32 on MPS, which lacks float64)."""
        device = self._device()
        if dtype is None:
            dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.full((), value, dtype=dtype, device=device)

    def _place_scalars(self) -> None:
        """Follow parameters that were moved, or a state that was loaded from another device."""
        device = self._device()
        first = self.param_groups[0]
        if first[self._scalars[0]].device == device:
            return  # they only ever move together
        for group in self.param_groups:
            for name in self._scalars:
                if name in group:
                    group[name] = group[name].to(device)

    def _evaluate(
        self, closure: Closure | None, loss: Loss | None, like: Tensor
    ) -> tuple[Loss, Tensor] | tuple[None, None]:
        """Return the loss as it was given, and as a tensor with dtype and device of ``like``.

        Both are None where the step is to make the state and change nothing.

        Raises:
            ValueError: if the loss is given in no way or in two, is not 0-dim, or lies on another
                device.
            TypeError: if the loss is neither a tensor nor a number, or stands in the closure's
                place.
            RuntimeError: inside torch.compile of a torch before 2.14.
        """
        if torch.compiler.is_compiling() and not COMPILES:
            raise RuntimeError(
                f"a compiled step of {type(self).__name__} is wrong in torch {torch.__version__}: "
                "install torch 2.14 or later, or do not compile the step"
            )
        if closure is not None and not callable(closure):
            raise TypeError(
                f"step() got a {type(closure).__name__} in the place of the closure: pass the loss "
                "by its name, step(loss=loss)"
            )
        given = [source for source in (closure, loss, self._observed) if source is not None]
        if not given and not self.state and all(g["lr"] == 0 for g in self.param_groups):
            return None, None
        if len(given) != 1:
            raise ValueError(
                "step() needs the loss in exactly one of three ways: step(loss=loss), "
                "step(closure), or observe(loss) before step(); "
                + ("it was given in none" if not given else "it was given in more than one")
            )
        if self._observed is not None:
            loss, self._observed = self._observed, None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        loss = check_loss(loss, like.device)
        if isinstance(loss, Tensor):
            return loss, loss.to(like.dtype)
        return float(loss), torch.full_like(like, float(loss))
