"""The study of Figure 5: what is measured, resumed, handed to the claims and drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.claims.trajectories import FIGURE5, FIGURE5_L, MOMENTUM
from experiments.studies import figure5
from experiments.studies.figure5 import Setting

SMALL = ["scale.train_examples=320", "scale.val_examples=100", "threads=1", "device=cpu"]


def test_trajectories_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [Setting("digits", mu, 20.0, 0) for mu in (0.0, 0.5, 0.9)]
    figure5.measure(settings[:1], tmp_path, SMALL)
    figure5.measure(settings, tmp_path, SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(figure5, "record", None)  # would be called for a trajectory that is missing
        figure5.measure(settings, tmp_path, SMALL)
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == [
        "digits-mu0-L20-seed0.npz",
        "digits-mu0.9-L20-seed0.npz",  # 0.5 is not drawn
    ]
    tables = figure5.evidence(tmp_path)
    assert set(FIGURE5.columns) <= set(tables["figure5"].columns)
    assert set(MOMENTUM.columns) <= set(tables["momentum"].columns)
    assert tables["momentum"]["momentum"].tolist() == [0.0, 0.5, 0.9]
    series = tables["figure5"]
    assert len(series) == 2 * 4 * 10  # four epochs of ten batches
    plain = series[series["momentum"] == 0.0]
    assert np.all(plain["lhs"] >= plain["rhs"] - 1e-5)  # by construction
    assert np.all(series["relative_step"] > 0)


def test_a_trajectory_that_diverges_is_measured_up_to_there(tmp_path: Path) -> None:
    settings = [Setting("digits", 0.99, lipschitz, 0) for lipschitz in (0.001, 20.0)]
    figure5.measure(settings, tmp_path, SMALL)
    table = figure5.evidence(tmp_path)["momentum"]
    assert 2 <= table["diverged"][0] <= 10
    assert np.isnan(table["diverged"][1])
    assert table[list(MOMENTUM.columns)].notna().all(axis=None)
    text = figure5._text(table)
    assert f"L = 0.001: diverged at iteration {table['diverged'][0]:.0f};" in text
    assert text.count("diverged") == 1


def test_the_figure_shows_both_sides_for_every_l(tmp_path: Path) -> None:
    settings = [s for s in figure5.settings([0]) if s.momentum in figure5.DRAWN]
    assert len(settings) == 2 * sum(map(len, FIGURE5_L.values()))
    columns = {"held": 0.25, "pairs13": 0.5, "pairs15": 0.5, "all13": 0.0, "all15": 0.0}
    rows = [{**vars(setting), **columns} for setting in settings]
    pd.DataFrame(rows).to_csv(tmp_path / figure5.SUMMARY, index=False)
    for setting in settings:
        values = np.linspace(1, 2, 50, dtype=np.float32)
        np.savez(tmp_path / setting.file, lhs=values, rhs=values / 2, objective=values)
    text = figure5.show(tmp_path, tmp_path, tmp_path)
    assert text.count("| 25.0% |") == len(settings)
    panels = figure5.draw(figure5._series(tmp_path)).axes
    titles = [panel.get_title(loc="left") for panel in panels]
    assert titles == ["MNIST, μ = 0", "MNIST, μ = 0.9", "CIFAR-10, μ = 0", "CIFAR-10, μ = 0.9"]
    for panel in panels:
        lines = panel.get_lines()
        assert len(lines) == 2 * 4
        assert [line.get_label() for line in lines][1] in ("L = 10", "L = 50")
        np.testing.assert_allclose(np.asarray(lines[1].get_ydata()) * 2, lines[0].get_ydata())
