"""Tables of final results as LaTeX, to be put into a document that loads the package booktabs."""

import re
from collections.abc import Sequence

from bpgrad.reporting.display.grid import Cell, Printed, grid
from bpgrad.reporting.display.style import heading_of
from bpgrad.reporting.display.tables import notes, with_paper
from bpgrad.reporting.runs import Comparison

MAX_COLUMNS = 10  # a table with more is turned: a row for each metric

GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "ε": "epsilon"},
    **{"η": "eta", "λ": "lambda", "μ": "mu", "ρ": "rho"},
}
ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "‖": r"$\|$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    **{letter: f"$\\{name}$" for letter, name in GREEK.items()},
}


def as_latex(
    name: str, title: str, comparisons: Sequence[Comparison], printed: Printed | None = None
) -> str:
    r"""A table environment with a booktabs tabular and its notes for each task.

    The numbers, their rounding and what is bold are those of the Markdown table. `name` is that of
    the experiment: the table's label is tab:<name>.
    """
    lines = [
        "% Generated from the run records by make report. In the preamble: \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escape(title)}}}",
        f"  \\label{{tab:{name}}}",
        r"  \small",
    ]
    for comparison in comparisons:
        found = grid(comparison, printed)
        header = ["solver", "seeds", *found.columns]
        rows = [
            [escape(row.solver), str(len(row.runs)), *(_number(cell) for cell in row.cells)]
            for row in found.rows
        ]
        lines += ["", rf"  \medskip\emph{{{escape(heading_of(comparison))}}}\par\smallskip"]
        if rows:
            lines += [f"  {line}" for line in _tabular(header, rows)]
        lines += [rf"  {{\footnotesize {escape(note)}\par}}" for note in notes(comparison, found)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def escape(text: str) -> str:
    """A text as LaTeX prints it, the paper's symbols as mathematics."""
    return "".join(ESCAPES.get(character, character) for character in text)


def _number(cell: Cell) -> str:
    # A minus sign in a number is a hyphen in the records' text.
    text = escape(with_paper(cell).replace("-", "−"))
    return rf"\textbf{{{text}}}" if cell.best else text


def _tabular(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [_stacked(name) for name in header]
    if len(header) > MAX_COLUMNS:
        turned = list(zip([escape(name) for name in header], *rows, strict=True))
        head, rows = list(turned[0]), turned[1:]
    return [
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"  \toprule",
        f"  {' & '.join(head)} \\\\",
        r"  \midrule",
        *(f"  {' & '.join(row)} \\\\" for row in rows),
        r"  \bottomrule",
        r"\end{tabular}\par\smallskip",
    ]


def _stacked(name: str) -> str:
    """A heading in as many lines as it has words, a unit beside its word."""
    words = [escape(word) for word in re.split(r" (?!\()", name)]
    return words[0] if len(words) == 1 else r"\shortstack[r]{" + r"\\".join(words) + "}"
