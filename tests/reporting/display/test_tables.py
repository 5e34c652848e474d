"""The numbers of the tables are those of the records."""

import csv
import io
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bpgrad.records.run_record import RunRecord
from bpgrad.reporting.display.grid import grid, summarise
from bpgrad.reporting.display.tables import as_csv, as_markdown, notes, show
from bpgrad.reporting.runs import Comparison, read_run
from bpgrad.tasks.imagenet import Imagenette
from bpgrad.tasks.task import Metric
from tests.reporting.records import compare, make_record, make_run


def cells(markdown: str, solver: str) -> list[str]:
    (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {solver} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_one_seed_is_the_last_row_of_its_record(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam", level=0.3)
    last = record.rows()[-1]
    (row,) = csv.DictReader(io.StringIO(as_csv([compare(read_run(record, "Adam", 0))])))
    assert row["seeds"] == "1"
    for column in ("train_objective", "train_top1_error", "val_objective", "val_top1_error"):
        assert float(row[column]) == pytest.approx(last[column], rel=1e-5)
        assert row[f"{column}_std"] == ""
    assert float(row["train_seconds"]) == 2 + 4 + 6
    assert float(row["images_per_second"]) == 100


def test_several_seeds_are_mean_and_sample_deviation(tmp_path: Path) -> None:
    levels = [1.0, 2.0, 6.0]
    runs = [make_run(tmp_path, "Adam", seed, level=level) for seed, level in enumerate(levels)]
    summary = summarise(compare(*runs)).iloc[0]
    assert summary["seeds"] == 3
    assert summary["val_top1_error"] == pytest.approx(20 * statistics.mean(levels) / 3)
    assert summary["val_top1_error_std"] == pytest.approx(20 * statistics.stdev(levels) / 3)
    assert summary["train_seconds"] == pytest.approx(12)


def test_the_objective_at_fixed_weights_stands_beside_the_running_mean(tmp_path: Path) -> None:
    """Not if a run lacks it: a mean would be of the other runs alone."""
    runs = [make_run(tmp_path, "Adam", seed) for seed in (0, 1)]
    measured = [replace(run, rows=run.rows.assign(fixed_objective=0.25)) for run in runs]
    text = as_markdown("A title", [compare(*measured)])
    assert "| train objective | train objective at fixed weights | train top-1" in text
    assert cells(text, "Adam")[3].startswith("0.2500 ± ")
    assert "fixed weights" not in as_markdown("A title", [compare(measured[0], runs[1])])


def test_errors_are_named_after_the_batch_statistics_that_they_take(tmp_path: Path) -> None:
    run = make_run(tmp_path, "Adam", task="imagenette")
    columns = {
        f"{name}_reestimated": run.rows[name] for name in ("val_objective", "val_top1_error")
    }
    fixed = {"fixed_objective": 0.5, "fixed_objective_reestimated": 0.25}
    task = {"batch_norm": True, "validation": "test"}
    run = replace(run, rows=run.rows.assign(**columns, **fixed), config=run.config | {"task": task})
    shown = Comparison("imagenette", Imagenette.metrics, (run,))
    assert grid(shown).columns[:8] == (
        *("train objective", "train objective at fixed weights, statistics re-estimated"),
        *("train top-1 error (%)", "val objective, moving statistics"),
        "val top-1 error, statistics re-estimated (%)",
        "val top-1 error, moving statistics (%)",
        *("val objective, statistics re-estimated", "fastest run (s)"),
    )
    assert cells(as_markdown("A title", [shown]), "Adam")[3] == "0.2500"
    for key, other in (("batch_norm", False), ("validation", "training")):
        another = replace(run, config=run.config | {"task": task | {key: other}})
        titles = grid(Comparison("imagenette", Imagenette.metrics, (another,))).columns
        assert not any("moving" in title for title in titles)


def test_a_table_may_show_the_mean_over_the_last_epochs(tmp_path: Path) -> None:
    """Objectives are level / epoch: of three the last two have (1/2 + 1/3) / 2 on average."""
    runs = [make_run(tmp_path, "Adam", seed, level=level) for seed, level in enumerate((1.0, 3.0))]
    comparison = Comparison("mnist", compare(*runs).metrics, tuple(runs), averaged=2)
    summary = summarise(comparison).iloc[0]
    assert summary["train_objective"] == pytest.approx(2 * 5 / 12)
    assert summary["train_objective_std"] == pytest.approx(2**0.5 * 5 / 12)
    assert summary["train_seconds"] == pytest.approx(12)
    text = as_markdown("A title", [comparison])
    assert "Of each run the mean over its last 2 epochs." in text
    assert cells(text, "Adam")[2].startswith("0.8333 ± ")


def test_a_note_and_the_fluctuation_stand_below_the_table(tmp_path: Path) -> None:
    runs = tuple(make_run(tmp_path, "Adam", seed, level=seed + 1.0) for seed in (0, 1))
    shown = Comparison("mnist", compare(*runs).metrics, runs, note="Mind this.")
    assert list(notes(shown))[1] == "Mind this."
    assert "Fluctuation" not in "\n".join(notes(shown))
    found = list(notes(replace(shown, curve="objective", fluctuation=2)))
    # Of the last two of 2, 1 and 2/3, and of twice that: (1 − 2/3) / √2 · 1.5 on average.
    assert (
        "Fluctuation, the standard deviation of the test objective over the last 2 epochs, mean "
        "over the seeds: Adam 0.354." in found
    )


def test_a_fluctuation_that_there_is_not_is_a_dash(tmp_path: Path) -> None:
    runs = make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD", epochs=9)
    shown = replace(compare(*runs), curve="objective", fluctuation=5)
    (found,) = [note for note in notes(shown) if note.startswith("Fluctuation")]
    assert ": Adam –, SGD 0." in found
    absent = replace(shown, curve="other", metrics={**shown.metrics, "other": Metric("other")})
    assert ": Adam –, SGD –." in "".join(notes(absent))


def test_what_is_not_compared_has_no_best(tmp_path: Path) -> None:
    runs = tuple(
        make_run(tmp_path, solver, seed, level=level * (1 + 0.01 * seed))
        for solver, level in (("Adam", 1.0), ("SGD", 2.0))
        for seed in range(3)
    )
    shown = compare(*runs)
    assert "**" in cells(as_markdown("A title", [shown]), "Adam")[-3]
    spread = {**shown.metrics, "top1_error": Metric("top-1 error", "%", compared=False)}
    text = as_markdown("A title", [replace(shown, metrics=spread)])
    assert "**" not in cells(text, "Adam")[-3]
    assert "**" in text  # of the objective


def test_the_best_may_have_two_names(tmp_path: Path) -> None:
    """A row with another's very runs is no rival of it: what was chosen is the paper's setting."""
    best, other = (
        [make_run(tmp_path, solver, seed, level=level * (1 + 0.01 * seed)) for seed in range(3)]
        for solver, level in (("Adam", 1.0), ("SGD", 2.0))
    )
    twins = [replace(run, solver="the paper's") for run in best]
    shown = compare(*best, *other, *twins)
    text = as_markdown("A title", [shown])
    for solver in ("Adam", "the paper's"):
        assert "**" in cells(text, solver)[-3]
    assert "**" not in cells(text, "SGD")[-3]


def test_runs_that_collapsed_are_named(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam")
    rows = [row | {"val_collapsed": float(row["epoch"] == 3)} for row in record.rows()]
    record.write_rows("metrics.csv", rows)
    runs = read_run(record, "Adam", 0), make_run(tmp_path, "SGD")
    assert [run.collapsed for run in runs] == [True, False]
    (note,) = [note for note in notes(compare(*runs)) if note.startswith("Collapsed")]
    assert "a failure of the setting and no value: Adam seed 0." in note


def test_the_proposals_of_a_detection_are_named(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam")
    config = {"epochs": 3, "precision": "fp32", "task": {"proposals": "selective_search"}}
    record.write_config(config)
    found = list(notes(compare(read_run(record, "Adam", 0), make_run(tmp_path, "SGD"))))
    assert "Proposals: selective search by OpenCV, not the published boxes." in found
    record.write_config(config | {"task": {"proposals": "oracle"}})
    assert any("no result of a detector" in n for n in notes(compare(read_run(record, "Adam", 0))))
    assert not any("Proposals" in note for note in notes(compare(make_run(tmp_path, "SGD"))))


def test_throughput_weighs_epochs_by_their_time(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam", epochs=2)
    times = [(1, 3.0, 200.0), (2, 1.0, 600.0)]
    names = ("epoch", "train_seconds", "images_per_second")
    record.write_rows("timing.csv", [dict(zip(names, row, strict=True)) for row in times])
    summary = summarise(compare(read_run(record, "Adam", 0))).iloc[0]
    assert summary["images_per_second"] == pytest.approx((200 * 3 + 600 * 1) / 4)


def test_times_are_those_of_the_fastest_run(tmp_path: Path) -> None:
    """Another run had to share its machine."""
    records = [make_record(tmp_path, "Adam", seed) for seed in range(2)]
    slow = [
        row | {"train_seconds": 60.0, "images_per_second": 5.0}
        for row in records[0].rows("timing.csv")
    ]
    records[0].write_rows("timing.csv", slow)
    runs = [read_run(record, "Adam", seed) for seed, record in enumerate(records)]
    summary = summarise(compare(*runs)).iloc[0]
    assert summary["train_seconds"] == 2 + 4 + 6
    assert summary["images_per_second"] == 100


def test_markdown_formats_percentages_and_objectives(tmp_path: Path) -> None:
    one = as_markdown("A title", [compare(make_run(tmp_path, "Adam", level=0.3))])
    assert one.startswith("# A title\n\n## MNIST\n\n| solver ")
    assert cells(one, "Adam") == ["Adam", "1", "0.1000", "1.00", "0.2000", "2.00", "12", "100"]
    assert "±" not in one
    runs = [make_run(tmp_path, "Adam", seed, level=0.3 + 0.03 * seed) for seed in (0, 1)]
    two = as_markdown("A title", [compare(*runs)])
    assert cells(two, "Adam")[1:4] == ["2", "0.1050 ± 0.0071", "1.05 ± 0.07"]
    assert "- Mean ± standard deviation over the seeds." in two


def test_columns_are_the_metrics_of_each_task(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam", task="detection", epochs=1)
    record.write_rows("metrics.csv", [{"epoch": 1, "train_objective": 0.5, "val_map": 61.25}])
    metrics = {"objective": Metric("objective"), "map": Metric("mAP", "%", higher_is_better=True)}
    detection = Comparison("detection", metrics, (read_run(record, "Adam", 0),))
    markdown = as_markdown("Both", [detection, compare(make_run(tmp_path, "SGD"))])
    header = next(line for line in markdown.splitlines() if line.startswith("| solver"))
    assert [name.strip() for name in header.strip("|").split("|")] == [
        *("solver", "seeds", "train objective", "val mAP (%)", "fastest run (s)", "images/s")
    ]
    assert cells(markdown, "Adam")[2:4] == ["0.5000", "61.25"]
    first, second = csv.DictReader(
        io.StringIO(as_csv([detection, compare(make_run(tmp_path, "SGD"))]))
    )
    assert (first["val_map"], first["val_top1_error"]) == ("61.25", "")
    assert (second["val_map"], second["val_top1_error"]) == ("", "6.66667")


def test_a_record_that_is_older_than_a_column_has_a_dash_there(tmp_path: Path) -> None:
    old, new = make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD")
    metrics = compare(old).metrics | {"average": Metric("average", "%")}
    new = replace(new, rows=new.rows.assign(val_average=3.0))
    shown = Comparison("mnist", metrics, (old, new), averaged=2)
    text = as_markdown("A title", [shown])
    assert cells(text, "Adam")[6:7] + cells(text, "SGD")[6:7] == ["–", "3.00"]
    assert next(csv.DictReader(io.StringIO(as_csv([shown]))))["val_average"] == ""


def test_missing_runs_stand_below_the_table_and_not_in_it(tmp_path: Path) -> None:
    missing = read_run(RunRecord(tmp_path, tmp_path, "mnist/eve/seed0-0"), "Eve", 0)
    runs = [make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD", done=1), missing]
    markdown = as_markdown("A title", [compare(*runs)])
    assert "- Missing: SGD, seed 0: 1 of 3 epochs done." in markdown
    assert "- Missing: Eve, seed 0: not run." in markdown
    assert "| SGD" not in markdown
    assert "| Eve" not in markdown


def test_many_runs_that_have_not_been_run_are_counted(tmp_path: Path) -> None:
    missing = [
        read_run(RunRecord(tmp_path, tmp_path, f"mnist/eve/seed{k}-0"), "Eve", k) for k in range(4)
    ]
    runs = [make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD", done=1), *missing]
    markdown = as_markdown("A title", [compare(*runs)])
    assert "- Missing: SGD, seed 0: 1 of 3 epochs done." in markdown
    assert "- Missing: 4 of 6 planned runs have not been run." in markdown
    assert "Eve" not in markdown


def test_a_task_of_which_nothing_has_finished_lists_what_is_missing(tmp_path: Path) -> None:
    cut = compare(make_run(tmp_path, "SGD", task="digits", done=1), task="digits")
    done = compare(make_run(tmp_path, "Adam"))
    markdown = as_markdown("A title", [cut, done])
    assert "## Digits\n\n- Missing: SGD" in markdown
    assert as_csv([cut, done]) == as_csv([done])


def test_times_in_company_are_marked(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam")
    times = record.rows("timing.csv")
    times[-1]["concurrent_runs"] = 8  # not from the beginning
    record.write_rows("timing.csv", times)
    text = as_markdown("", [compare(read_run(record, "Adam", 0), make_run(tmp_path, "SGD"))])
    assert cells(text, "Adam")[-2:] == ["12 in company", "100 in company"]
    assert cells(text, "SGD")[-2:] == ["12", "100"]
    assert "Times in company count other runs' turns." in text


def test_devices_and_machines_are_named(tmp_path: Path) -> None:
    cpu, gpu = make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD", device="cuda")
    assert list(notes(compare(cpu))) == ["Times on: A CPU, 2 threads."]
    assert list(notes(compare(gpu))) == ["Times on: 1 process on A GPU."]
    (note,) = notes(compare(cpu, gpu))
    assert note.startswith("Mixed devices (cpu, cuda): ")


def test_off_a_terminal_the_markdown_is_printed(tmp_path: Path) -> None:
    comparison = compare(make_run(tmp_path, "Adam"))
    out = io.StringIO()
    show("A title", [comparison], Console(file=out))
    assert out.getvalue() == "\n" + as_markdown("A title", [comparison])


def test_on_a_terminal_no_value_is_cut_off(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "BPGrad (released code)", seed, level=1 + seed) for seed in (0, 1)]
    out = io.StringIO()
    show(
        "A title",
        [compare(*runs)],
        Console(file=out, force_terminal=True, color_system=None, width=80),
    )
    words = out.getvalue().split()
    assert {"BPGrad", "(released", "objective", "images/s", "0.5000", "10.00", "12"} <= set(words)
    assert "…" not in out.getvalue()
