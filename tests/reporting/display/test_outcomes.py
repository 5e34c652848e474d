"""Where runs end, as it is drawn."""

from pathlib import Path

import numpy as np
import pytest

from bpgrad.reporting.display.outcomes import draw_sweep, draw_variants
from tests.reporting.records import compare, make_run


def test_a_row_for_each_finished_variant_with_every_seed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "paper", seed, level=3.0 + seed) for seed in (0, 1)]
    runs += [make_run(tmp_path, "other", seed, level=6.0) for seed in (0, 1)]
    runs.append(make_run(tmp_path, "cut", done=1))
    left, right = draw_variants("A title", [compare(*runs)]).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["paper", "other"]
    dots = [line for line in left.get_lines() if line.get_marker() == "o"]
    assert [sorted(np.asarray(line.get_xdata()).tolist()) for line in dots] == [
        pytest.approx([1.0, 4 / 3]),
        pytest.approx([2.0, 2.0]),
    ]
    (reference,) = [line for line in left.get_lines() if line.get_marker() != "o"]
    assert np.asarray(reference.get_xdata())[0] == pytest.approx(7 / 6)
    assert right.get_title(loc="left") == "MNIST: test top-1 error (%)"


def test_a_curve_for_each_solver_over_its_setting(tmp_path: Path) -> None:
    levels = {"Adam, lr = 0.001": 3.0, "Adam, lr = 0.01": 6.0, "Adam, lr = 0.1": 9.0}
    runs = [make_run(tmp_path, label, level=level) for label, level in levels.items()]
    runs += [make_run(tmp_path, "BPGrad, L = 50", level=12.0)]
    runs += [make_run(tmp_path, "BPGrad, L = 5", done=1), make_run(tmp_path, "Eve, lr = 1", done=1)]
    left, _ = draw_sweep("A title", [compare(*runs)]).axes
    assert [line.get_label() for line in left.get_lines()] == ["Adam, lr = 0.01", "BPGrad, L = 50"]
    curves = {str(line.get_label()): line for line in left.get_lines()}
    adam = curves["Adam, lr = 0.01"]
    np.testing.assert_allclose(np.asarray(adam.get_xdata()), [0.1, 1.0, 10.0])
    np.testing.assert_allclose(np.asarray(adam.get_ydata()), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(np.asarray(curves["BPGrad, L = 50"].get_ydata()), [4.0])
    assert left.get_yscale() == "log"


def test_a_setting_that_is_no_number_is_a_level_line(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"BPGrad, L = {v}", level=float(v)) for v in (5, 50, 500)]
    runs.append(make_run(tmp_path, "BPGrad, L = auto", level=12.0))
    figure = draw_sweep("", [compare(*runs)])
    curve, level = figure.axes[0].get_lines()
    np.testing.assert_allclose(np.asarray(curve.get_xdata()), [10, 1, 0.1])
    np.testing.assert_allclose(np.asarray(level.get_ydata()), [4.0, 4.0])
    assert (level.get_label(), level.get_color()) == ("BPGrad, L = auto", curve.get_color())
    assert "BPGrad, L = auto" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_sweep_over_l_is_drawn_over_its_inverse(tmp_path: Path) -> None:
    """So that steps get longer to the right, as with a learning rate."""
    runs = [make_run(tmp_path, f"BPGrad, L = {v}", level=float(v)) for v in (5, 50, 500)]
    left, _ = draw_sweep("", [compare(*runs)]).axes
    (line,) = left.get_lines()
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [10, 1, 0.1])
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [5 / 3, 50 / 3, 500 / 3])
