"""The ablation's variants against the formulas, and against the variants they lie between."""

import numpy as np
import pytest
import torch

from bpgrad.optim import BPGrad
from experiments.ablation import BPGradAblation

RHO, L, STEPS = 0.3, 4.0, 60


def _trajectory(optimizer_class: type[BPGrad], variant: str, mu: float, decay: float) -> np.ndarray:
    """All weights after each step on a quadratic loss, in two groups."""
    rng = torch.Generator().manual_seed(5)
    first, second = (
        torch.randn(n, dtype=torch.float64, generator=rng).requires_grad_() for n in (3, 2)
    )
    optimizer = optimizer_class(
        [{"params": [first]}, {"params": [second]}],
        lipschitz=L,
        rho=RHO,
        momentum=mu,
        weight_decay=decay,
        variant=variant,
    )
    points = []
    for _ in range(STEPS):
        loss = 0.5 * (first.square() @ torch.arange(1.0, 4.0, dtype=torch.float64))
        loss = loss + (second - 1).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        points.append(torch.cat([first, second]).detach().numpy().copy())
    return np.stack(points)


@pytest.mark.parametrize(
    ("variant", "mu", "decay", "same_as"),
    [
        ("directions", 0.9, 0.0, "released"),  # without weight decay the norms agree
        ("directions", 0.0, 0.1, "paper"),  # without momentum the velocities do
        ("data_norm", 0.9, 0.0, "paper"),
        ("data_norm", 0.0, 0.1, "released"),
    ],
)
def test_each_is_one_difference_away_from_both(
    variant: str, mu: float, decay: float, same_as: str
) -> None:
    found = _trajectory(BPGradAblation, variant, mu, decay)
    np.testing.assert_allclose(found, _trajectory(BPGrad, same_as, mu, decay), rtol=1e-8)
    other = {"paper": "released", "released": "paper"}[same_as]
    assert np.abs(found - _trajectory(BPGrad, other, mu, decay)).max() > 1e-4


@pytest.mark.parametrize("variant", ["directions", "data_norm"])
def test_against_the_formulas(variant: str) -> None:
    mu, decay = 0.8, 0.05
    found = _trajectory(BPGradAblation, variant, mu, decay)
    rng = torch.Generator().manual_seed(5)
    w = np.concatenate([torch.randn(n, dtype=torch.float64, generator=rng).numpy() for n in (3, 2)])
    scale, target = np.array([1.0, 2.0, 3.0, 2.0, 2.0]), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    v, smallest = np.zeros(5), np.inf
    for point in found:
        f, g = 0.5 * scale @ (w - target) ** 2, scale * (w - target)
        smallest = min(smallest, f)
        eta = (f - RHO * smallest) / L
        if variant == "directions":
            v = mu * v - (g + decay * w) / np.linalg.norm(g + decay * w)
            w = w + eta * v
        else:
            v = mu * v - eta * (g + decay * w) / np.linalg.norm(g)
            w = w + v
        np.testing.assert_allclose(point, w, rtol=1e-11)


def test_the_other_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="choose 'directions' or 'data_norm'"):
        BPGradAblation([torch.zeros(1, requires_grad=True)], 1.0, variant="paper")
