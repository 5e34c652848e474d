"""The pages about Algorithm 1 do what they say."""

import re
from pathlib import Path

import pytest

from bpgrad.records.files import replace_between
from experiments.studies import functions
from scripts import bench_branch_prune

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "branch_prune.md").read_text(), re.S)
    exec(compile(example, "docs/branch_prune.md", "exec"), {})
    assert "certified" in capsys.readouterr().out


def test_the_counterexamples_of_the_corrections_exist() -> None:
    named = set(re.findall(r"\(`(\w+)`\)", (DOCS / "corrections.md").read_text()))
    assert named == {"late_raise", "one_ball", "right_angle"}
    assert all(callable(getattr(functions, name)) for name in named)


def test_the_pages_have_lines_of_a_readable_length() -> None:
    for page in ("branch_prune.md", "corrections.md"):
        lines = (DOCS / page).read_text().splitlines()
        assert max(map(len, (line for line in lines if not line.startswith("|")))) <= 120


def test_the_benchmark_has_a_row_a_mark() -> None:
    rows = bench_branch_prune.bench(200)
    assert [row["samples"] for row in rows] == [100, 200]
    text = bench_branch_prune.as_markdown(
        {"start": {"machine": {"cpu": "cpu"}, "versions": {"numpy": "2"}}, "rows": rows}
    )
    page = "a\n" + "old\n".join(bench_branch_prune.MARKS) + "b\n"
    replaced = replace_between(page, bench_branch_prune.MARKS, text)
    assert replaced == "a\n" + text.join(bench_branch_prune.MARKS) + "b\n"
    for broken in (page + page, "no marks"):
        with pytest.raises(ValueError, match="unpack"):
            replace_between(broken, bench_branch_prune.MARKS, text)


def test_the_constant_of_the_benchmark_is_one() -> None:
    import numpy as np

    points = np.random.default_rng(0).uniform(-3, 3, (2000, 2))
    norms = [np.linalg.norm(bench_branch_prune.gradient(x)) for x in points]
    assert 0.8 < max(norms) <= bench_branch_prune.LIPSCHITZ
