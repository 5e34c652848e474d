"""make report: what it writes, from which records, and that it writes the same again."""

import csv
import hashlib
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from bpgrad.reporting.inference.verdicts import Outcome, Verdict
from bpgrad.reporting.page.document import JudgedClaim
from experiments.__main__ import SUITE, main
from experiments.claims import CLAIMS
from experiments.engine import declaration, report, runner
from experiments.engine.claim import about
from tests.reporting.records import make_record


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder in which Figure 6 has one finished run and one that was cut."""
    monkeypatch.chdir(tmp_path)
    _record_figure6(tmp_path)
    return tmp_path / "results"


def _record_figure6(folder: Path) -> None:
    plan = runner.prepare(declaration.load(SUITE.folder / "figure6.yaml"))
    for (_, cfg), done in zip(plan.runs, (None, 2), strict=False):
        record = make_record(folder, "BPGrad", epochs=4, done=done)
        record.directory.rename(_made(runner.record_of(cfg).directory))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of `results` with the report in it, to be read only."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _record_figure6(folder)
        assert report.rebuild(SUITE) == Path("results/README.md")
    return folder / "results"


def _made(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_report_holds_what_has_run_and_names_what_has_not(built: Path) -> None:
    text = (built / "README.md").read_text()
    assert "### BPGrad with other values of L, over four epochs (Figure 6)" in text
    assert "| L = 10 |     1 |" in text
    assert "Missing: L = 15, seed 0: 2 of 4 epochs done." in text
    assert "Missing: 43 of 45 planned runs have not been run." in text
    waiting = text.partition("## Not run yet")[2]
    assert "`make figure7`" in waiting
    assert "make figure6" not in waiting
    assert "quickstart" not in text
    for target in (
        *("figures/figure6.png", "figures/figure6.svg"),
        *("tables/figure6.csv", "tables/figure6.tex"),
    ):
        assert f"({target})" in text
        assert (built / target).stat().st_size > 0


def test_rebuilt_from_the_same_records_it_is_the_same(results: Path) -> None:
    records = contents(results / "runs")
    report.rebuild(SUITE)
    assert contents(results / "runs") == records
    before = contents(results)
    for path in results.rglob("*"):
        if path.is_file() and "runs" not in path.parts:
            path.unlink()
    report.rebuild(SUITE)
    assert contents(results) == before


def test_the_prose_is_computed_from_the_records(built: Path) -> None:
    text = (built / "README.md").read_text()
    assert "rests on 1 finished training run of " in text
    assert "MNIST: 1 run of 4 epochs with 1 seed" in text
    assert (
        "Of the paper's 21 claims 0 are reproduced, 0 fail a check or more, 0 are undecided" in text
    )
    section = text.partition("over four epochs (Figure 6)")[2].partition("\n## ")[0]
    assert "- The objective is robust in L: its curves are clustered (Figure 6). `C9`" in section
    assert "– **not run**." in section
    assert "on MNIST, the training objective of L = 10 is 0.2500" in section
    assert "`make figure6` runs what is missing" in section


def test_the_page_shows_the_same_and_its_links_lead_somewhere(built: Path) -> None:
    html = (built / "index.html").read_text()
    for claim in CLAIMS:
        assert f'<li id="{claim.id}"' in html
    targets = set(re.findall(r'href="(?!#|data:|https:)([^"]+)"', html))
    assert any(target.startswith("runs/mnist/bpgrad/seed0-") for target in targets)
    assert {target for target in targets if not (built / target).exists()} == set()


def test_every_claim_names_an_experiment_that_it_is_about_or_is_a_composite() -> None:
    seen = {id for name in declaration.names(SUITE.folder) for id in about(CLAIMS, [name])}
    assert {"C9", "C10", "C16", "C18", "C21"} <= seen
    assert about(CLAIMS, ["figure6"]) == ["C9"]
    assert about(CLAIMS, ["smoothing", "loop"]) == ["C4", "C5"]
    assert about(CLAIMS, ["quickstart"]) == []


def test_status_counts_what_has_finished(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status"])
    lines = capsys.readouterr().out.splitlines()
    assert "figure6              1 of 90 runs finished  BPGrad with other values" in "\n".join(
        lines
    )
    assert "                   mnist  L = 15  seed 0: 2 of 4 epochs done" in lines
    assert not any(line.endswith(": not run") for line in lines)  # a dry run lists them
    assert not any("L = 10  seed 0" in line for line in lines)


def test_every_claim_has_its_verdict_on_the_page_and_on_the_screen(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (built / "README.md").read_text()
    monkeypatch.chdir(built.parent)
    main(["verdict"])
    screen = capsys.readouterr().out
    for claim in CLAIMS:
        assert f" `{claim.id}` | " in page
        assert f"\n{claim.id} " in f"\n{screen}"
    assert ": Not run: needs figure6 on mnist: L = 15 (2 of 4 epochs done), L = 20," in page


def test_the_readme_says_what_the_committed_records_say() -> None:
    """Between its marks stands the first finding, word for word."""
    from experiments import findings

    root = SUITE.folder.parent
    declared = declaration.load(SUITE.folder / "figure7.yaml")
    assert isinstance(declared, declaration.Experiment)
    plan = runner.prepare(declared, overrides=[f"results_root={root}/results/runs"])
    comparisons = {("figure7", one.task): one for one in runner.gather(plan)}
    said = (root / "README.md").read_text(encoding="utf-8").partition("<!-- found -->")[2]
    assert (
        " ".join(said.partition("<!-- /found -->")[0].split())
        == (findings.findings(comparisons, [])[0])
    )


def test_the_picture_of_the_quickstart_is_of_the_settings_of_today() -> None:
    """Its data name the runs, which a changed setting renames, and it holds their checksum."""
    docs = SUITE.folder.parent / "docs"
    text = (docs / "quickstart.csv").read_text(encoding="utf-8")
    with Image.open(docs / "quickstart.png") as picture:
        digest = picture.info["Description"]
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    declared = declaration.load(SUITE.folder / "quickstart.yaml")
    assert isinstance(declared, declaration.Experiment)
    plan = runner.prepare(declared)
    drawn = {row["run"] for row in csv.DictReader(text.splitlines())}
    assert drawn == {runner.record_of(cfg).name for _, cfg in plan.runs}, "make quickstart-picture"


def test_the_columns_of_the_verdicts_stay_apart_at_every_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A claim has one line, the same at every width but for where it is cut; or a short one."""
    long = Verdict(Outcome.NOT_REPRODUCED, "", n=12345)
    claims = [
        JudgedClaim("C2", "a claim " * 30, "", long),
        JudgedClaim("C10", "another", "", Verdict(Outcome.NOT_RUN, "")),
    ]

    def lines(width: int) -> list[str]:
        console = Console(file=io.StringIO(), width=width)
        report.print_table(console, claims)
        return console.file.getvalue().splitlines()  # type: ignore[attr-defined]

    whole = lines(1000)
    words = "✗ not reproduced, n = 12345"
    assert whole[1].startswith(f"C2   {words}  {words}         a claim a claim")
    assert whole[2].split() == ["C10", "–", "not", "run", "–", "not", "run", "another"]
    for head in ("first rules", "second, unseen", "claim"):
        at = whole[0].index(head)
        assert all(line[at - 1] == " " != line[at] for line in whole[:3])
    with monkeypatch.context() as patch:
        patch.setattr(report, "NARROW", 2000)
        short = lines(1000)
    assert short[1].startswith("C2   ✗ n = 12345  ✗ n = 12345         a claim a claim")
    for width in range(50, 201):  # what is below the claims may take two lines
        reference = whole if width >= report.NARROW else short
        for line, all_of_it in zip(lines(width)[:3], reference[:3], strict=True):
            shown = line.removesuffix("…")
            assert all_of_it.startswith(shown)
            assert len(line) <= width
            assert shown == line or len(line) == width
