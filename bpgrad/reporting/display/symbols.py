"""Formulas in plain text: indices as a reader expects them, wherever the text is shown."""

import re

SUBSCRIPTS = str.maketrans("0123456789+−-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ")
INDEXED = re.compile(
    r"(?<![\w`/.])([A-Za-zΔηρμωθ])_(\{[0-9a-z+−-]+\}|max|min|[0-9]|[ijkmnt])(?!\w)"
)
CODE = re.compile(r"(`[^`]*`|\]\([^)]*\))")  # code and the targets of links stay as they are


def with_subscripts(text: str) -> str:
    """Markdown with x_i, ρ_max and x_{t+1} as xᵢ, ρₘₐₓ and xₜ₊₁."""
    parts = CODE.split(text)
    return "".join(part if k % 2 else INDEXED.sub(_subscript, part) for k, part in enumerate(parts))


def _subscript(found: re.Match[str]) -> str:
    index = found[2].strip("{}")
    # There is no small b, say: such an index stays.
    lowered = index.translate(SUBSCRIPTS)
    return f"{found[1]}{lowered}" if not set(index) & set(lowered) else found[0]
