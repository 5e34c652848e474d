"""What BPGrad's constructor refuses."""

from collections.abc import Collection

from bpgrad.optim._fused import check_fused


def check_options(
    rho: float,
    variant: str,
    variants: Collection[str],
    on_zero_gradient: str,
    foreach: bool | None,
    fused: bool | None,
) -> None:
    """Check what is global, in the words of ``torch.optim``.

    Raises:
        ValueError: for a value outside its range.
        RuntimeError: for ``fused`` where it cannot be.
    """
    if not 0.0 <= rho < 1.0:
        raise ValueError(f"Invalid rho value: {rho}")
    if variant not in variants:
        choices = " or ".join(map(repr, variants))
        raise ValueError(f"Invalid variant: {variant!r} (choose {choices})")
    if on_zero_gradient not in ("skip", "random"):
        raise ValueError(
            f"Invalid on_zero_gradient: {on_zero_gradient!r} (choose 'skip' or 'random')"
        )
    if fused:
        check_fused(foreach, on_zero_gradient)
