"""The LaTeX tables: the numbers of the Markdown ones, and what LaTeX takes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bpgrad.metrics import Metric
from bpgrad.reporting.display.latex import as_latex, escape
from bpgrad.reporting.display.tables import as_markdown
from bpgrad.reporting.runs import Comparison, read_run
from tests.reporting.records import compare, make_record, make_run


def five_seeds(folder: Path) -> Comparison:
    """Adam's values are half of SGD's in every seed."""
    levels = {"Adam": 1.0, "SGD, 50 % & more": 2.0}
    return compare(
        *(
            make_run(folder, solver, seed, level=level * (1 + 0.01 * seed))
            for solver, level in levels.items()
            for seed in range(5)
        )
    )


def body(latex: str) -> list[list[str]]:
    """The rows of all tabulars, as cells."""
    rows = re.findall(r"^ +(.*&.*) \\\\$", latex, flags=re.MULTILINE)
    return [re.split(r" (?<!\\)& ", row) for row in rows]


def wide(folder: Path) -> Comparison:
    record = make_record(folder, "Adam", task="detection", epochs=1)
    scores = {f"val_ap_{k}": 50.0 + k for k in range(20)}
    record.write_rows("metrics.csv", [{"epoch": 1, "train_objective": 1.0} | scores])
    metrics = {f"ap_{k}": Metric(f"AP {k}", "%", higher_is_better=True) for k in range(20)}
    return Comparison("detection", metrics, (read_run(record, "Adam", 0),))


def test_numbers_and_bold_are_those_of_the_markdown_table(tmp_path: Path) -> None:
    comparison = five_seeds(tmp_path)
    markdown = as_markdown("A title", [comparison])
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    expected = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    found = [
        [
            re.sub(r"\\textbf{(.*)}", r"**\1**", cell).replace(r"$\pm$", "±").replace("\\", "")
            for cell in row
        ]
        for row in body(as_latex("figure7", "A title", [comparison]))[1:]
    ]
    assert found == expected
    assert found[0][2].startswith("**0.340")
    assert "**" not in "".join(found[1])


@pytest.mark.parametrize("seeds", [1, 2])
def test_nothing_is_bold_with_one_or_two_seeds(tmp_path: Path, seeds: int) -> None:
    runs = [run for run in five_seeds(tmp_path).runs if run.seed < seeds]
    assert "textbf" not in as_latex("figure7", "A title", [compare(*runs)])
    assert "**" not in as_markdown("A title", [compare(*runs)])


def test_nothing_is_bold_while_a_planned_run_is_missing(tmp_path: Path) -> None:
    runs = [*five_seeds(tmp_path).runs, make_run(tmp_path, "Eve", 0, done=1)]
    assert "textbf" not in as_latex("figure7", "A title", [compare(*runs)])
    assert "**" not in as_markdown("A title", [compare(*runs)])


def test_the_papers_value_stands_beside_ours(tmp_path: Path) -> None:
    printed = {("mnist", "Adam", "val_top1_error"): 1.5}
    runs = compare(make_run(tmp_path, "Adam", level=0.3), make_run(tmp_path, "SGD", level=0.3))
    latex = as_latex("table1", "A title", [runs], printed)
    assert body(latex)[1][5] == r"2.00 (1.5, +0.50)"
    assert body(latex)[2][5] == "2.00"
    assert "ours minus the paper's" in latex


def test_what_latex_would_misread_is_escaped() -> None:
    assert escape("50 % & a_b, μ = 0.9 ± 1") == r"50 \% \& a\_b, $\mu$ = 0.9 $\pm$ 1"
    assert escape("\\ {x} #1 $ ~ ^") == (
        r"\textbackslash{} \{x\} \#1 \$ \textasciitilde{} \textasciicircum{}"
    )


def test_a_wide_table_is_turned(tmp_path: Path) -> None:
    rows = body(as_latex("table2", "A title", [wide(tmp_path)]))
    assert rows[0] == ["solver", "Adam"]
    assert rows[2] == [r"val AP 0 (\%)", "50.00"]
    assert len(rows) == 2 + 20 + 2


def test_environments_and_braces_are_closed(tmp_path: Path) -> None:
    latex = as_latex("figure7", "A {title} & more", [five_seeds(tmp_path), wide(tmp_path)])
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 2
    plain = re.sub(r"\\[{}]", "", latex)
    assert plain.count("{") == plain.count("}")
    for table in re.findall(r"\\begin{tabular}.*?\\end{tabular}", latex, flags=re.DOTALL):
        (columns,) = re.findall(r"begin{tabular}{(l r*)}".replace(" ", ""), table)
        assert {len(row) for row in body(table)} == {len(columns)}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX (pdflatex) on this machine")
def test_latex_compiles_it(tmp_path: Path) -> None:
    odd = make_run(tmp_path, "Odd ‖g‖ η ρ λ ≤ … × – <#$~^\\>", level=3.0)
    tables = [compare(*five_seeds(tmp_path).runs, odd), wide(tmp_path)]
    document = "\n".join(
        [
            r"\documentclass{article}\usepackage{booktabs}\begin{document}",
            as_latex("figure7", "A title (50 % of {it})", tables),
            r"\end{document}",
        ]
    )
    (tmp_path / "t.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
