"""python -m experiments explain: the table's number from the rows, and the runs behind it."""

import csv
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from bpgrad.errors import BPGradError, ConfigError, RecordError
from experiments.__main__ import SUITE, main
from experiments.engine import declaration, explain, runner

RESULTS = Path(__file__).resolve().parents[3] / "results"
DECLARATION = """\
title: A comparison
seeds: [0, 1]
tasks: [digits]
set: [epochs=2, threads=1]
solvers:
  - {label: SGD, set: [solver=sgd]}
  - {label: "BPGrad, μ = 0", set: [solver=bpgrad, solver.momentum=0]}
  - {label: "BPGrad, μ = 0.9", set: [solver=bpgrad]}
"""
NAME = "mine-smoke-modified"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiment `mine`, whose runs are done but for those of μ = 0."""
    folder = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.__main__.SUITE", replace(SUITE, folder=folder))
        (folder / "mine.yaml").write_text(DECLARATION, encoding="utf-8")
        declared = declaration.load(folder / "mine.yaml")
        assert isinstance(declared, declaration.Experiment)
        plan = runner.prepare(declared, scale="smoke", overrides=overrides(folder))
        done = tuple(pair for pair in plan.runs if not pair[0].solver.endswith("0"))
        runner.execute(replace(plan, runs=done))
        runner.report(plan, SUITE.paper_values)
        names: dict[str, list[str]] = {}
        for planned, cfg in plan.runs:
            names.setdefault(planned.solver, []).append(runner.record_of(cfg).name)
        (folder / "names.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.setattr("experiments.__main__.SUITE", replace(SUITE, folder=tmp_path / "copy"))
    return tmp_path / "copy"


def overrides(folder: Path) -> list[str]:
    return [
        *("scale.train_examples=64", "scale.val_examples=50"),
        f"results_root={folder}/results/runs",
        f"checkpoint_root={folder}/checkpoints",
    ]


def run(folder: Path, solver: str, metric: str, task: str = "") -> None:
    """As the command does, without composing all runs again."""
    runs = [
        explain.PlannedRun("digits", label, folder / "results/runs" / name)
        for label, names in json.loads((folder / "names.json").read_text()).items()
        for name in names
    ]
    explain.explain(folder / f"results/tables/{NAME}.csv", runs, solver, metric, task)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / f"results/tables/{NAME}.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_number_of_a_table_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(folder)
    assert [row["solver"] for row in rows] == ["SGD", "BPGrad, μ = 0.9"]
    for row in rows:
        columns = [name for name in row if name not in ("task", "solver", "seeds")]
        assert len(columns) == 12
        for column in columns:
            run(folder, row["solver"], column)
            out = capsys.readouterr().out
            assert f"from the records  {row[column]}  (" in out
            assert "equal to 6 significant digits" in out


def test_a_mean_over_the_last_epochs_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = sorted((folder / "results/runs/digits/sgd").iterdir())[0]
    with (directory / "metrics.csv").open(newline="") as lines:
        values = [float(row["val_objective"]) for row in csv.DictReader(lines)]
    found = explain._value(directory, "val_objective", 2)
    assert found.value == pytest.approx(sum(values) / 2)
    runs = [explain.PlannedRun("digits", "SGD", directory, averaged=2)]
    with pytest.raises(explain.Mismatch):
        explain.explain(folder / f"results/tables/{NAME}.csv", runs, "SGD", "val_objective", "")
    assert "(mean of the last 2 val_objective of metrics.csv, one run)" in capsys.readouterr().out


def test_runs_and_where_they_came_from_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", "mine", "sgd", "top-1 error", "--scale=smoke", "--set", *overrides(folder)])
    out = capsys.readouterr().out
    values = []
    paths = sorted((folder / "results/runs/digits/sgd").iterdir())
    assert len(paths) == 2
    for path in paths:
        with (path / "metrics.csv").open(newline="") as lines:
            values.append(float(list(csv.DictReader(lines))[-1]["val_top1_error"]))
        meta = json.loads((path / "meta.json").read_text())
        (start,) = meta["starts"]
        for part in (
            f"  {path}\n    value     {values[-1]!r} (2 epochs)\n",
            f"    config    {path}/config.yaml\n",
            f"    commit    {start['git_sha']} ({'un' if start['git_dirty'] else 'clean'}",
            f"    device    cpu, {start['machine']['cpu']}, threads: 1\n",
            f"torch {start['versions']['torch']}",
            *(f"{name}  md5 {md5}\n" for name, md5 in meta["data_md5"].items()),
        ):
            assert part in out
    assert f"from the records  {statistics.mean(values):.6g}  (mean over 2 runs" in out


@pytest.mark.parametrize("column", ["val_top1_error", "train_objective_std", "train_seconds"])
def test_a_number_changed_in_the_table_is_found(
    folder: Path, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / f"results/tables/{NAME}.csv"
    cell = table(folder)[0][column]
    last = str((int(cell[-1]) + 1) % 10)
    path.write_text(path.read_text(encoding="utf-8").replace(cell, cell[:-1] + last, 1), "utf-8")
    with pytest.raises(explain.Mismatch, match=f"{column} is .* but the records give {cell}") as e:
        run(folder, "SGD", column)
    assert e.value.exit_code == 1
    assert "NOT EQUAL" in capsys.readouterr().out


def test_a_number_changed_in_a_record_is_found(folder: Path) -> None:
    path = next(folder.glob("results/runs/digits/sgd/seed1-*/metrics.csv"))
    head, *rows, last = path.read_text().splitlines()
    values = dict(zip(head.split(","), last.split(","), strict=True)) | {"val_top1_error": "99.5"}
    path.write_text("\n".join([head, *rows, ",".join(values.values())]) + "\n")
    with pytest.raises(explain.Mismatch, match="val_top1_error is"):
        run(folder, "SGD", "val_top1_error")
    run(folder, "SGD", "val_objective")  # the others are as they were


def test_a_run_taken_away_is_found(folder: Path) -> None:
    next(folder.glob("results/runs/digits/sgd/seed1-*/result.json")).unlink()
    with pytest.raises(explain.Mismatch, match=r"over 2 seeds, but the records give .* over 1"):
        run(folder, "SGD", "val_objective")


def test_what_has_not_run_is_told(folder: Path) -> None:
    with pytest.raises(BPGradError, match=r"no run of BPGrad, μ = 0 has finished") as told:
        run(folder, "BPGrad, mu = 0", "val_objective")
    assert told.value.exit_code == 2
    (folder / f"results/tables/{NAME}.csv").unlink()
    with pytest.raises(BPGradError, match=r"mine-smoke-modified\.csv is not there"):
        run(folder, "SGD", "val_objective")


@pytest.mark.parametrize(
    ("solver", "metric", "task", "words"),
    [
        ("BPGrad", "val_objective", "", "could be any of BPGrad, μ = 0; BPGrad, μ = 0.9"),
        ("Adm", "val_objective", "", "unknown Adm: .*SGD"),
        ("SGD", "val_objectiv", "", "did you mean val_objective"),
        ("SGD", "val_objective_paper", "", "printed by the paper"),
        ("SGD", "val_objective", "mnist", "unknown mnist: .*digits"),
    ],
)
def test_wrong_words_are_one_line(
    folder: Path, solver: str, metric: str, task: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        run(folder, solver, metric, task)
    assert "\n" not in str(refused.value)


def test_experiments_that_are_none_or_are_studies(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown min: did you mean mine"):
        main(["explain", "min", "SGD", "val_objective"])
    (folder / "sampling.yaml").write_text("title: A study\nstudy: sampling\n")
    with pytest.raises(ConfigError, match="sampling is a study"):
        main(["explain", "sampling", "SGD", "val_objective"])


@pytest.mark.parametrize("text", ["mu = 0.9", "μ=0.9", "bpgrad mu 0.9", "BPGrad, μ = 0.9"])
def test_names_of_solvers(text: str) -> None:
    assert explain._label(text, ["BPGrad, μ = 0", "BPGrad, μ = 0.9", "Adam"]) == "BPGrad, μ = 0.9"


def test_names_of_columns() -> None:
    row = dict.fromkeys(
        [
            *("task", "solver", "seeds", "train_top1_error", "val_top1_error", "train_seconds"),
            *("val_top1_error_paper", "val_mean_iu", "val_map", "val_ap_bicycle", "val_ap_train"),
        ],
        "",
    )
    for wanted, column in {
        "mean_IU": "val_mean_iu",
        "mAP": "val_map",
        "bike": "val_ap_bicycle",
        "train": "val_ap_train",
        "training": "train_top1_error",
        "validation": "val_top1_error",
        "top1_error": "val_top1_error",
        "train top-1 error": "train_top1_error",
        "train_seconds": "train_seconds",
    }.items():
        assert explain._column(wanted, row) == column


def test_rounding_is_forgiven_in_the_last_bit_and_no_further() -> None:
    assert explain.agrees("0.123456", 0.1234564)
    assert not explain.agrees("0.123456", 0.1234566)
    assert explain.agrees("1", 1.0)
    assert explain.agrees("0.0222222", 0.02222225)  # either side of a tie, an ulp apart
    assert explain.agrees("0.0222223", 0.02222225)
    assert explain.agrees("", float("nan"))
    assert not explain.agrees("1", float("nan"))


def test_the_committed_numbers_of_figure_7(capsys: pytest.CaptureFixture[str]) -> None:
    """Independent arithmetic on all that is committed."""
    path, runs = explain.planned(
        SUITE.folder, "figure7", overrides=[f"results_root={RESULTS}/runs"]
    )
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows
    for row in rows:
        for column in row:
            if column not in ("task", "solver", "seeds") and not column.endswith("_paper"):
                explain.explain(path, runs, row["solver"], column, row["task"])
    assert "NOT EQUAL" not in capsys.readouterr().out


def test_a_record_without_its_rows_is_one_line(folder: Path) -> None:
    next(folder.glob("results/runs/digits/sgd/seed1-*/metrics.csv")).unlink()
    with pytest.raises(RecordError, match=r"metrics\.csv: cannot be read"):
        run(folder, "SGD", "val_objective")


def test_the_rate_is_that_of_the_run_with_the_fewest_seconds(tmp_path: Path) -> None:
    """As in the table, though another run had a higher one."""
    values = []
    for name, seconds, rate in (("quick", 1.0, 100.0), ("long", 2.0, 300.0)):
        (tmp_path / name).mkdir()
        text = f"epoch,train_seconds,images_per_second\n1,{seconds},{rate}\n"
        (tmp_path / name / "timing.csv").write_text(text)
        values.append(explain._value(tmp_path / name, "images_per_second"))
    assert explain._combined("images_per_second", values) == 100.0


def test_the_runs_of_a_smoke_table_with_a_solver_of_ones_own_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/tables").mkdir(parents=True)
    listed = tmp_path / "results/tables/quickstart-with-mine-smoke-runs.csv"
    listed.write_text("task,solver,run\ndigits,mine,digits/mine/seed0-1\n")
    (tmp_path / "results/smoke/digits/mine/seed0-1").mkdir(parents=True)
    _, runs = explain.planned(SUITE.folder, "quickstart-with-mine-smoke")
    assert [run.directory for run in runs] == [Path("results/smoke/digits/mine/seed0-1")]
