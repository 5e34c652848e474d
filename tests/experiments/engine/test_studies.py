"""Studies: declared, computed, shown, in the report and before the claims."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bpgrad.errors import BPGradError, ConfigError, RecordError
from experiments.__main__ import SUITE, main
from experiments.engine import declaration, report, studies
from experiments.engine.declaration import Study, load, names

# A module like those of the real studies: what it computes depends on the seeds and the overrides.
MODULE = """
import pandas as pd
from experiments.engine.studies import write_meta

def run(folder, *, seeds=(), overrides=()):
    (folder / "sum.csv").write_text(f"seeds,overrides\\n{sum(seeds)},{len(overrides)}\\n")
    write_meta(folder)

def show(folder, figures, tables):
    (figures / "toy.svg").write_text("<svg/>")
    (tables / "toy.csv").write_bytes((folder / "sum.csv").read_bytes())
    return "The text.\\n\\n![Toy](figures/toy.png)\\n"

def evidence(folder):
    return {"sums": pd.read_csv(folder / "sum.csv")}
"""
HERE = replace(SUITE, folder=Path())
TOY = {"title": "A toy", "study": "toy", "paper": "Figure 99", "seeds": [1, 2]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place, in which the only declaration is that of the study toy."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/toy.py").write_text(MODULE)
    monkeypatch.setattr("experiments.studies.__path__", [str(tmp_path / "modules")])
    monkeypatch.delitem(__import__("sys").modules, "experiments.studies.toy", raising=False)
    monkeypatch.setattr("experiments.__main__.SUITE", HERE)
    declare(tmp_path)
    return tmp_path


def declare(folder: Path, **changes: object) -> Study:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY | changes))
    study = load(path)
    assert isinstance(study, Study)
    return study


def test_a_study_is_computed_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["toy"])
    assert capsys.readouterr().out == (
        "The text.\n\n![Toy](figures/toy.png)\n\n"
        "records results/studies/toy\ntables  results/tables\nfigures results/figures\n"
    )
    made = sorted(str(path.relative_to("results")) for path in Path("results").rglob("*.*"))
    assert made == [
        *("figures/toy.svg", "studies/toy/meta.json", "studies/toy/sum.csv", "tables/toy.csv")
    ]
    assert Path("results/tables/toy.csv").read_text().splitlines()[1] == "3,0"


def test_seeds_of_the_command_line_replace_the_planned(folder: Path) -> None:
    main(["toy", "--seeds", "5,6,7"])
    assert Path("results/tables/toy.csv").read_text().splitlines()[1] == "18,0"


def test_show_computes_nothing(folder: Path) -> None:
    with pytest.raises(BPGradError, match=r"^toy: nothing is recorded in results/studies/toy$"):
        main(["toy", "--show"])
    main(["toy"])
    record = Path("results/studies/toy/sum.csv")
    record.write_text("seeds,overrides\n77,0\n")
    main(["toy", "--show"])
    assert "77,0" in Path("results/tables/toy.csv").read_text()


def test_other_settings_do_not_touch_the_declared_results(folder: Path) -> None:
    main(["toy", "--set", "epochs=2", "threads=1"])
    assert not Path("results/studies/toy").exists()
    assert not Path("results/tables").exists()
    modified = Path("results/studies/toy-modified")
    assert (modified / "tables/toy.csv").read_text().splitlines()[1] == "3,2"
    main(["toy", "--set", "threads=1", "results_root=elsewhere/runs"])
    assert Path("elsewhere/studies/toy/sum.csv").exists()
    assert Path("elsewhere/tables/toy.csv").exists()


@pytest.mark.parametrize("override", ["solver=adam", "+task=mnist", "seed=3", "scale=smoke"])
def test_what_a_study_sets_itself_cannot_be_set(folder: Path, override: str) -> None:
    """It would be the same for all that the study compares."""
    for more in ([], ["--dry-run"]):
        with pytest.raises(ConfigError, match=r"^--set .*: the experiment sets "):
            main(["toy", *more, "--set", override])
    assert not Path("results").exists()


def test_a_study_has_no_scale(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--scale smoke: toy is a study, which has one size$"):
        main(["toy", "--scale", "smoke"])


def test_a_module_that_is_not_there_is_told(folder: Path) -> None:
    declare(folder, study="toyy")
    with pytest.raises(ConfigError, match=r"^toy: study: toyy: there is no "):
        main(["toy"])
    report.rebuild(HERE)  # nothing is recorded of it, so nothing of it is needed
    (folder / "modules/toyy.py").write_text("import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):  # a bug keeps its traceback
        main(["toy"])


def test_the_report_has_a_section_of_each_study(folder: Path) -> None:
    page = report.rebuild(HERE)
    assert "\n- A toy (Figure 99): `make toy`\n" in page.read_text().partition("Not run yet")[2]
    main(["toy"])
    text = page.read_text() if page == report.rebuild(HERE) else ""
    again = "`make toy` computes and builds it again."
    assert "### A toy (Figure 99)\n\n![Toy](figures/toy.png)\n\n<details>" in text
    assert f"\n\nThe text.\n\n{again}\n\n</details>" in text
    assert "Not run yet" not in text


def test_what_the_paper_does_not_have_is_named_without_a_number(folder: Path) -> None:
    declare(folder, paper=None)
    main(["toy"])
    assert "\n### A toy\n" in report.rebuild(HERE).read_text()


def test_tables_and_planned_seeds_of_a_study_reach_the_checks(folder: Path) -> None:
    before = report.read(HERE).evidence
    assert not before.studies
    main(["toy"])
    evidence = report.read(HERE).evidence
    pd.testing.assert_frame_equal(
        evidence.studies["sums"], pd.DataFrame({"seeds": [3], "overrides": [0]})
    )
    assert evidence.seeds["toy"] == evidence.seeds["sums"] == (1, 2)


def test_list_and_status_know_studies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    main(["status"])
    listed, state = capsys.readouterr().out.splitlines()
    assert listed.split() == ["toy", "study", "A", "toy", "(Figure", "99)"]
    assert state.split() == ["toy", "study", "not", "run", "A", "toy"]
    main(["toy"])
    main(["status"])
    assert "study recorded  A toy" in capsys.readouterr().out


def test_meta_tells_where_the_records_come_from_and_does_not_repeat_itself(tmp_path: Path) -> None:
    studies.write_meta(tmp_path)
    studies.write_meta(tmp_path)
    path = tmp_path / "meta.json"
    (computed,) = json.loads(path.read_text())["computed"]
    assert set(computed) >= {"time", "git_sha", "git_dirty", "versions", "machine"}
    path.write_text(json.dumps({"computed": [computed | {"git_sha": "another"}]}))
    studies.write_meta(tmp_path)
    assert len(json.loads(path.read_text())["computed"]) == 2
    path.write_text("{")
    with pytest.raises(RecordError, match="is damaged"):
        studies.write_meta(tmp_path)
    assert path.read_text() == "{"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"studdy": "x"}, "unknown toy.studdy: did you mean toy.study?"),
        ({"tasks": ["mnist"]}, "unknown toy.tasks: "),
        ({"study": 3}, "toy.study=3: expected str"),
        ({"seeds": [1, 1]}, "seeds: 1 occurs twice"),
    ],
)
def test_mistakes_in_a_declaration_are_told(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        declare(tmp_path, **changes)
    assert str(refused.value).startswith(f"{tmp_path}/toy.yaml: {message}")


def test_names_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("figure10", "table1", "figure2", "theorems", "figure1"):
        (tmp_path / f"{name}.yaml").touch()
    assert names(tmp_path) == ["figure1", "figure2", "figure10", "table1", "theorems"]


@pytest.mark.parametrize(
    "study", [s for s in declaration.load_all(SUITE.folder) if isinstance(s, Study)]
)
def test_every_declared_study_has_its_module(study: Study) -> None:
    module = studies._module(SUITE.studies, study)
    assert callable(module.run)
    assert callable(module.show)
