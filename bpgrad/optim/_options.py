"""What BPGrad's constructor refuses."""

from collections.abc import Collection

from bpgrad.optim._fused import kernel


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
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if fused and on_zero_gradient == "random":
        raise RuntimeError("`fused=True` does not support on_zero_gradient='random'")
    if fused and kernel() is None:
        raise RuntimeError(
            "`fused=True` needs the CPU kernel, which was not built: install bpgrad again where"
            " there is a C compiler with OpenMP, or leave it at None."
        )
