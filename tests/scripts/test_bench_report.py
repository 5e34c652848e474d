"""How much work the state, the verdicts and the report are; seconds are for the benchmark."""

from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from matplotlib.figure import Figure
from PIL import Image

from bpgrad.records import reading
from bpgrad.reporting import runs
from bpgrad.training import composition
from experiments.__main__ import SUITE, main
from experiments.engine import declaration, runner
from experiments.engine.declaration import Experiment
from scripts.bench_report import ROOT, fill

COPIES = 40


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed records and some copies of them for other seeds."""
    folder = tmp_path_factory.mktemp("filled")
    before = len(list((ROOT / "results/runs").glob("*/*/*/result.json")))
    assert fill(folder / "results", COPIES) == before + COPIES
    return folder


def as_a_dot(figure: Figure, file: BinaryIO, *, format: str, **_: Any) -> None:
    """In the place of a picture: drawing would take most of a report's time and reads nothing."""
    if format == "png":
        Image.new("RGB", (1, 1)).save(file, "png", dpi=(72, 72))
    else:
        file.write(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>')


@pytest.mark.slow
@pytest.mark.parametrize("command", ["status", "verdict", "report"])
def test_a_record_is_read_once_and_a_setting_composed_once_whatever_its_seeds(
    command: str, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(filled)
    monkeypatch.setattr(runs, "_looked_at", {})  # each command is a process of its own
    monkeypatch.setattr(Figure, "savefig", as_a_dot)
    of: dict[str, Counter[Any]] = {}

    def count(name: str, module: Any, function: str) -> None:
        inner, of[name] = getattr(module, function), Counter()

        def counted(*arguments: Any) -> Any:
            of[name][str(arguments)] += 1
            return inner(*arguments)

        monkeypatch.setattr(module, function, counted)

    count("read", reading, "read")
    count("hash", reading, "_sha256")
    count("steps", runs, "read_steps")
    count("setting", runner, "load")
    count("Hydra", composition, "_compose")
    main([command])
    recorded = {path.parent for path in Path("results/runs").glob("*/*/*/result.json")}
    assert sum(str((path,)) in of["read"] for path in recorded) > COPIES
    for name in ("read", "hash"):
        assert of[name].most_common(1)[0][1] == 1
    settings = [
        {(run.task, run.solver) for run in declared.runs()}
        for declared in declaration.load_all(SUITE.folder)
        if isinstance(declared, Experiment) and not declared.needs
    ]
    assert 0 < of["setting"].total() <= sum(map(len, settings))
    assert not of["Hydra"]  # all of them have been composed before, in another process
    assert all(times <= 6 for times in of["steps"].values())  # once for a column that is shown
