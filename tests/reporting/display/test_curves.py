"""The figures: what they draw, and that the same records give the same bytes."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from bpgrad.errors import RecordError
from bpgrad.reporting.display.curves import draw, draw_steps, save, settings
from bpgrad.reporting.display.style import SOLVER_STYLES, SPARE_STYLES, line_styles
from bpgrad.reporting.runs import Comparison, Run
from bpgrad.tasks.imagenet import Imagenette
from tests.reporting.records import compare, make_run


def curve(panel: Axes, solver: str) -> np.ndarray:
    (line,) = [line for line in panel.get_lines() if line.get_label() == solver]
    return np.asarray(line.get_ydata())


def test_a_row_of_two_panels_for_each_task(tmp_path: Path) -> None:
    mnist = compare(make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD", level=2.0))
    digits = compare(make_run(tmp_path, "Adam", task="digits", epochs=5), task="digits")
    figure = draw("A title", [mnist, digits])
    assert [panel.get_title(loc="left") for panel in figure.axes] == [
        "MNIST: training objective",
        "MNIST: test top-1 error (%)",
        "Digits: training objective",
        "Digits: test top-1 error (%)",
    ]
    assert curve(figure.axes[0], "SGD").tolist() == pytest.approx([2, 1, 2 / 3])
    assert curve(figure.axes[1], "Adam").tolist() == pytest.approx([20, 10, 20 / 3])
    assert len(curve(figure.axes[2], "Adam")) == 5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Adam", "SGD"]


def test_the_curve_of_another_metric(tmp_path: Path) -> None:
    shown = replace(compare(make_run(tmp_path, "Adam")), curve="objective")
    _, right = draw("", [shown]).axes
    assert right.get_title(loc="left") == "MNIST: test objective"
    assert list(right.lines[0].get_ydata()) == [2, 1, 2 / 3]


@pytest.mark.parametrize("curve", ["objective", "top1_error"])
def test_an_infinite_value_is_left_out(tmp_path: Path, curve: str) -> None:
    run = make_run(tmp_path, "Adam")
    rows = run.rows.assign(**{f"val_{curve}": [2.0, np.inf, 1.0]})
    _, right = draw("", [replace(compare(replace(run, rows=rows)), curve=curve)]).axes
    assert right.get_ylim()[1] < 3


def test_of_several_seeds_the_mean_and_a_band_from_smallest_to_largest(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "Adam", seed, level=level) for seed, level in enumerate((1, 2, 6))]
    figure = draw("A title", [compare(*runs)])
    panel = figure.axes[0]
    assert curve(panel, "Adam").tolist() == pytest.approx([3, 1.5, 1])
    (band,) = panel.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((1 / 3, 6))
    assert figure.legends[0].get_title().get_text().startswith("line: mean of 3 seeds,")
    figure = draw("A title", [compare(*runs, make_run(tmp_path, "SGD"))])
    assert figure.legends[0].get_title().get_text().startswith("line: mean of 1 to 3 seeds,")


def test_a_run_that_diverged_is_drawn_as_far_as_it_came(tmp_path: Path) -> None:
    diverged = make_run(tmp_path, "SGD", done=2, diverged={"epoch": 3, "iteration": 1})
    never = make_run(tmp_path, "Eve", done=0)
    panel = draw("A title", [compare(make_run(tmp_path, "Adam"), diverged, never)]).axes[0]
    assert len(curve(panel, "SGD")) == 2
    assert [line.get_label() for line in panel.get_lines()] == ["Adam", "SGD"]


def test_a_metric_that_is_judged_in_the_last_epochs_only(tmp_path: Path) -> None:
    late, early = make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD", done=1)
    late.rows.loc[0, "val_top1_error"] = np.nan
    del early.rows["val_top1_error"]
    figure = draw("A title", [compare(late, early)])
    assert np.isnan(curve(figure.axes[1], "Adam")).tolist() == [True, False, False]
    assert np.isnan(curve(figure.axes[1], "SGD")).all()
    save(figure, tmp_path / "figure.svg")


def test_an_unfinished_seed_does_not_shorten_the_finished_ones(tmp_path: Path) -> None:
    runs = make_run(tmp_path, "Adam", 0), make_run(tmp_path, "Adam", 1, done=1, level=9.0)
    panel = draw("A title", [compare(*runs)]).axes[0]
    assert curve(panel, "Adam").tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_zeros_and_constants_can_be_drawn(tmp_path: Path) -> None:
    perfect = make_run(tmp_path, "Adam")
    perfect.rows["val_top1_error"] = [90.0, 1.0, 0.0]
    stuck = make_run(tmp_path, "SGD")
    stuck.rows["val_top1_error"] = 90.0
    figure = draw("A title", [compare(perfect, stuck)])
    low, high = figure.axes[1].get_ylim()
    assert 0 < low < 1
    assert 90 < high < 110
    perfect.rows["val_top1_error"] = 0.0
    save(draw("A title", [compare(perfect)]), tmp_path / "figure.png")


def with_steps(run: Run, values: list[np.ndarray]) -> Run:
    """The run with a step size an iteration, an array an epoch, as the trainer writes them."""
    columns = np.array(["objective", "step_size"])
    epochs = {f"epoch{k}": np.stack([v + 1, v], axis=1) for k, v in enumerate(values, 1)}
    np.savez(run.directory / "steps.npz", columns=columns, **epochs)
    return run


def test_values_of_every_iteration_with_their_medians(tmp_path: Path) -> None:
    """Eleven epochs, so that the order of their names is not that of the epochs."""
    epochs = [np.array([10.0 * k, 10.0 * k + 1, 10.0 * k + 5]) for k in range(1, 12)]
    run = with_steps(make_run(tmp_path, "Adam"), epochs)
    assert run.steps("step_size").tolist() == np.concatenate(epochs).tolist()
    assert run.steps("objective").tolist() == (np.concatenate(epochs) + 1).tolist()
    long = with_steps(make_run(tmp_path, "SGD", task="digits"), [np.arange(1.0, 301.0)])
    figure = draw_steps("A title", [compare(run), compare(long, task="digits")], "step_size")
    left, right = figure.axes
    dots, line = left.get_lines()
    assert np.asarray(dots.get_ydata()).tolist() == run.steps("step_size").tolist()
    assert line.get_label() == "Adam"
    assert curve(right, "SGD").tolist() == list(np.arange(2.0, 300.0, 3.0))  # of three each
    assert left.get_ylabel() == "step size η"
    assert figure.legends[0].get_title().get_text() == ""
    other = with_steps(make_run(tmp_path, "Adam", 1), [np.ones(3)])
    figure = draw_steps("A title", [compare(run, other)], "step_size")
    assert len(figure.axes[0].get_lines()) == 2
    assert figure.legends[0].get_title().get_text() == "seed 0, one of 2"


def test_a_run_without_the_value_is_told_of(tmp_path: Path) -> None:
    run = with_steps(make_run(tmp_path, "Adam"), [np.ones(3)])
    with pytest.raises(RecordError, match=r"steps.npz: has no grad_norm an iteration"):
        draw_steps("A title", [compare(run)], "grad_norm")
    (run.directory / "steps.npz").unlink()
    with pytest.raises(RecordError, match=r"steps.npz: has no step_size an iteration"):
        draw_steps("A title", [compare(run)], "step_size")


def test_a_sweep_goes_from_dark_to_light() -> None:
    labels = tuple(f"L = {value}" for value in (10, 15, 20, 50, 100, 200, 500, 1000))
    colors = [to_rgb(style.color) for style in line_styles(labels).values()]
    lightness = [0.3 * red + 0.6 * green + 0.1 * blue for red, green, blue in colors]
    assert lightness == sorted(lightness)
    assert len(set(colors)) == len(labels)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_rebuilt_figures_have_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    """Whatever the settings of the user and however often it is drawn."""
    runs = [make_run(tmp_path, solver, seed) for seed in (0, 1) for solver in ("Adam", "SGD")]
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    save(draw("A title", [compare(*runs)]), one)
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "mine", "lines.linewidth": 9}):
        figure = draw("A title", [compare(*runs)])
        save(figure, tmp_path / f"first{suffix}")
        save(figure, two)
        assert matplotlib.rcParams["font.size"] == 20
    assert one.read_bytes() == two.read_bytes() == (tmp_path / f"first{suffix}").read_bytes()
    assert len(one.read_bytes()) > 5000


def test_a_png_says_what_it_is_and_is_small(tmp_path: Path) -> None:
    figure = draw("A title", [compare(make_run(tmp_path, "Adam"))])
    save(figure, tmp_path / "figure.png", description="what it is")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.mode == "P"
        assert picture.info["Description"] == "what it is"
        assert round(picture.info["dpi"][0]) == 150
    with settings():
        figure.savefig(tmp_path / "plain.png", dpi=150)
    assert (tmp_path / "figure.png").stat().st_size < (tmp_path / "plain.png").stat().st_size / 2


def test_a_figure_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("not a folder")
    figure = draw("A title", [compare(make_run(tmp_path, "Adam"))])
    with pytest.raises(RecordError, match="cannot write"):
        save(figure, tmp_path / "figures" / "figure.png")


def test_no_two_curves_look_alike() -> None:
    """But for the two names of BPGrad with the paper's momentum."""
    assert SOLVER_STYLES["BPGrad"] == SOLVER_STYLES["BPGrad, μ = 0.9"]
    looks = set(SOLVER_STYLES.values())
    assert len(looks) == len(SOLVER_STYLES) - 1
    assert len({style.color for style in looks}) == len(looks)
    assert len({(style.dashes, style.width) for style in looks}) >= len(looks) - 1


def test_solvers_of_your_own_get_styles_of_their_own() -> None:
    styles = line_styles(("Mine", "Adam", "Mine too"))
    assert styles["Adam"] == SOLVER_STYLES["Adam"]
    assert styles["Mine"] != styles["Mine too"]
    assert not {styles["Mine"], styles["Mine too"]} & set(SOLVER_STYLES.values())


def test_titles_of_panels_end_before_the_edge(tmp_path: Path) -> None:
    run = make_run(tmp_path, "Adam", task="imagenette")
    run = replace(run, rows=run.rows.assign(val_top1_error_reestimated=run.rows["val_top1_error"]))
    figure = draw("", [Comparison("imagenette", Imagenette.metrics, (run,))])
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    left, right = figure.axes
    assert left.get_title("left") == "Imagenette (reduced): training objective"
    assert right.get_title("left").replace("\n", " ") == (
        "Imagenette (reduced): validation top-1 error, statistics re-estimated (%)"
    )
    extents = [panel.get_tightbbox(renderer) for panel in figure.axes]
    assert all(extent is not None and extent.x1 <= figure.bbox.x1 for extent in extents)


def test_a_solver_at_other_settings_has_the_colour_of_the_one_as_given() -> None:
    other = "Adam (paper's setting)"
    styles = line_styles(("Adam", "Adam (tuned, 10 trials)", other, "Mine (paper's setting)"))
    assert styles[other].color == styles["Adam"].color
    assert len({style.dashes for style in styles.values()}) == 4
    assert styles["Mine (paper's setting)"] in SPARE_STYLES


def test_a_tuned_solver_has_the_colour_of_the_one_as_given() -> None:
    styles = line_styles(("Mine", "Mine (tuned, 10 trials)", "Adam", "Adam (tuned, 10 trials)"))
    for given in ("Mine", "Adam"):
        tuned = styles[f"{given} (tuned, 10 trials)"]
        assert tuned.color == styles[given].color
        assert tuned.dashes != styles[given].dashes
