"""BPGrad with the differences between the paper and the authors' code taken one at a time."""

from typing import ClassVar

from torch.optim.optimizer import ParamsT

from bpgrad.optim import BPGrad


class BPGradAblation(BPGrad):
    r"""BPGrad with one of the two differences between its variants (reference section 4, b and c).

    .. math::
        \text{directions:}\quad v &← μ v − (g + λw) / ‖g + λw‖, \qquad w ← w + η v \\
        \text{data_norm:}\quad  v &← μ v − η (g + λw) / ‖g‖, \qquad\qquad w ← w + v

    From ``variant="paper"`` each is one switch away: ``directions`` multiplies the whole velocity
    by the current η, ``data_norm`` leaves the weight decay out of the norm. Both together are
    ``variant="released"``.

    Args:
        params: as in ``BPGrad``, and so are the others but for the variant.
        variant: ``"directions"`` or ``"data_norm"``.

    Raises:
        ValueError: for a value outside its range.
    """

    _variants: ClassVar = {"directions": (True, False), "data_norm": (False, True)}

    def __init__(
        self,
        params: ParamsT,
        lipschitz: float,
        *,
        rho: float = 0.1,
        momentum: float = 0.9,
        lr: float = 1.0,
        weight_decay: float = 0.0,
        variant: str = "directions",
        on_zero_gradient: str = "skip",
    ) -> None:
        super().__init__(
            params,
            lipschitz,
            rho=rho,
            momentum=momentum,
            lr=lr,
            weight_decay=weight_decay,
            variant=variant,
            on_zero_gradient=on_zero_gradient,
            foreach=True,  # the compiled kernel knows the two variants only
        )
