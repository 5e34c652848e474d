"""‖g‖/L over the epochs, from records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bpgrad.errors import RecordError
from bpgrad.reporting.display import certificate
from bpgrad.reporting.runs import Run, read_run
from tests.reporting.records import compare, make_record

NORMS = np.array([[1.0, 2.0, 4.0, 6.0, 20.0], [1.0, 1.5, 2.0, 2.5, 3.0], [0.5, 0.6, 0.7, 0.8, 0.9]])


def _run(folder: Path, solver: str = "BPGrad", lipschitz: float | None = 4.0) -> Run:
    record = make_record(folder, solver)
    config = yaml.safe_load((record.directory / "config.yaml").read_text())
    settings = {} if lipschitz is None else {"lipschitz": lipschitz}
    record.write_config(config | {"solver": settings})
    rows = record.rows("metrics.csv")
    counted = [row | {"iterations": 5 * k, "exceeded_steps": 2} for k, row in enumerate(rows, 1)]
    record.write_rows("metrics.csv", counted)
    record.write_steps(
        {
            "columns": np.array(["objective", "grad_norm"]),
            "epoch1": np.stack([np.zeros(5), NORMS[0]], axis=1),
            "quantile_levels": np.linspace(0, 1, 5),
            "quantiles": np.stack([np.zeros_like(NORMS), NORMS], axis=2),
        }
    )
    return read_run(record, solver, 0)


def test_the_quantiles_and_the_share_come_from_the_record(tmp_path: Path) -> None:
    run = _run(tmp_path)
    np.testing.assert_allclose(certificate.norm_over_lipschitz(run), NORMS / 4)
    assert certificate.exceeded(run) == pytest.approx(2 / 15)


def test_the_median_is_drawn_with_its_band(tmp_path: Path) -> None:
    figure = certificate.draw("A title", [compare(_run(tmp_path))])
    (panel,) = figure.axes
    lines = {str(line.get_label()): line for line in panel.get_lines()}
    np.testing.assert_allclose(
        np.asarray(lines["BPGrad: 13.33% of steps"].get_ydata()), NORMS[:, 2] / 4
    )
    band = panel.collections[0].get_paths()[0].vertices
    assert {band[:, 1].min(), band[:, 1].max()} == {NORMS.min() / 4, NORMS.max() / 4}


def test_a_solver_without_an_l_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no Lipschitz constant"):
        certificate.draw("A title", [compare(_run(tmp_path, "Adam", None))])


@pytest.mark.parametrize(("lipschitz", "share"), [(2.0, None), (3.5, 3 / 15), (40.0, 0.0)])
def test_an_older_record_tells_what_its_first_epochs_and_the_greatest_later_ones_tell(
    tmp_path: Path, lipschitz: float, share: float | None
) -> None:
    """Its first epoch has the norms 1, 2, 4, 6 and 20; the second and third reach 3 and 0.9."""
    run = _run(tmp_path, lipschitz=lipschitz)
    older = replace(run, rows=run.rows.drop(columns="exceeded_steps"))
    assert certificate.exceeded(older) == (share if share is None else pytest.approx(share))
