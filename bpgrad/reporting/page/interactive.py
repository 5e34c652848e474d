"""Algorithm 1 to be tried in the browser, in one and two dimensions, with sliders for L and ρ."""

from pathlib import Path

FRAGMENT = Path(__file__).with_name("interactive.html")


def widget() -> str:
    """An HTML fragment with its own style and script, and no request to anywhere.

    It follows the colours of the page around it, where that sets ``--text``, ``--soft``, ``--line``
    and ``--back``, and may stand in a page once.
    """
    return FRAGMENT.read_text(encoding="utf-8")
