"""Publishing to W&B: what the files hold, what a second call does, and the workspaces.

The real client runs in forks, as in test_wandb_mirror, and the records are those
of Figure 4 (two runs).
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.records import wandb_mirror
from experiments.__main__ import SUITE
from experiments.engine import declaration, publish, runner
from experiments.engine.publish import Publication
from scripts import publish_wandb
from tests.forked import Script
from tests.records.test_wandb_mirror import KEY, Server, records, server, values  # noqa: F401

# Of wandb-workspaces itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Pydantic V1 style"),
    pytest.mark.usefixtures("no_committed_records"),
]

REPOSITORY = Path(__file__).parents[2]
RUN = "mnist/bpgrad/seed0-ec6cd970"  # shared by Figure 4 and Figure 6


@pytest.fixture(scope="module")
def folder(no_committed_records: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory that holds the records of Figure 4."""
    found = tmp_path_factory.mktemp("work")
    for name in (RUN, "cifar10/bpgrad/seed0-42d867cb"):
        shutil.copytree(REPOSITORY / "results/runs" / name, found / "results/runs" / name)
    return found


def published(experiment: str, folder: Path) -> list[Publication]:
    loaded = declaration.load(SUITE.folder / f"{experiment}.yaml")
    assert isinstance(loaded, declaration.Experiment)
    root = f"results_root={folder}/results/runs"
    return list(publish.publications(runner.prepare(loaded, overrides=[root])))


@pytest.fixture(scope="module")
def figure4(folder: Path) -> list[Publication]:
    return published("figure4", folder)


def changed(publication: Publication) -> Publication:
    """The same record with another first row."""
    first, *others = publication.epochs
    content = {key: getattr(publication, key) for key in publication.__dataclass_fields__}
    return Publication(**content | {"epochs": [first | {"train_seconds": 1.0}, *others]})


# -- what is published ---------------------------------------------------------------------------


def test_a_publication_holds_all_of_the_record(folder: Path, figure4: list[Publication]) -> None:
    found, record = figure4[0], folder / "results/runs" / RUN
    for file in ("metrics.csv", "timing.csv"):
        table = pd.read_csv(record / file, float_precision="round_trip")
        assert len(table) == len(found.epochs) == 4
        pd.testing.assert_frame_equal(
            pd.DataFrame(found.epochs)[list(table)], table.astype(float), check_exact=True
        )
    iterations, epochs = pd.DataFrame(found.iterations), pd.DataFrame(found.epochs)
    with np.load(record / "steps.npz") as steps:
        series = np.concatenate([steps[f"epoch{k}"] for k in (1, 2, 3, 4)])
        for k, name in enumerate(steps["columns"]):
            assert np.array_equal(iterations[f"iteration/{name}"], series[:, k].astype(float))
            for q, level in enumerate(steps["quantile_levels"]):
                column = epochs[f"quantiles/{name}_{100 * level:.0f}"]
                assert np.array_equal(column, steps["quantiles"][:, q, k].astype(float))
    assert iterations["iteration"].tolist() == list(range(1, 2401))
    meta = json.loads((record / "meta.json").read_text())
    assert found.config["meta"] == meta
    assert found.config["solver"]["lipschitz"] == 15
    assert found.summary == json.loads((record / "result.json").read_text())
    assert (found.group, found.job_type) == ("figure4", "bpgrad")
    assert found.tags[:3] == ["task=mnist", "scale=paper", "seed=0"]
    assert found.tags[3].startswith(f"commit={meta['starts'][-1]['git_sha'][:12]}")


def test_an_id_is_of_experiment_record_and_content(
    folder: Path, figure4: list[Publication]
) -> None:
    again = published("figure4", folder)
    assert [p.id for p in again] == [p.id for p in figure4]
    assert again[0].id.startswith("figure4-ec6cd970-")
    shared = [p for p in published("figure6", folder) if p.record == RUN]
    assert [p.id[:17] for p in shared] == ["figure6-ec6cd970-"]
    assert shared[0].name == "mnist, L = 15, seed 0"
    other = changed(again[0])
    assert other.id[:17] == again[0].id[:17]
    assert other.id != again[0].id


def test_runs_that_have_not_finished_are_left_out(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder / "results", tmp_path / "results")
    (tmp_path / "results/runs" / RUN / "result.json").unlink()
    assert [p.config["task_name"] for p in published("figure4", tmp_path)] == ["cifar10"]


# -- offline, with the real client ---------------------------------------------------------------


# What is committed in this checkout is not what these tests publish.
HIDDEN = """
from pathlib import Path
from bpgrad.training import lookup
lookup.SUITE_RECORDS = Path("nowhere")
"""


def run_python(
    body: str, folder: Path, cwd: Path, **environment: str
) -> tuple[int | None, str, str]:
    """The exit code, and what it has written to its two outputs."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    done = Script(
        HIDDEN + body,
        cwd,
        PATH=os.environ["PATH"],
        HOME=str(home),
        NETRC=str(home / ".netrc"),
        **environment,
    )
    out, errors = done.communicate()
    return done.returncode, out, errors


OFFLINE = f"""
from pathlib import Path
from scripts.publish_wandb import main

def publish():
    main(["figure4", "--mode", "offline", "--project", "tests"])
    return sorted(Path("wandb").glob("offline-run-*"))

first = publish()
assert publish() == first

(first[0] / "published").unlink()  # as if it had been cut
second = publish()
assert len(second) == 2 and first[0] not in second and first[1] in second

path = Path("results/runs/{RUN}/timing.csv")
path.write_text(path.read_text().replace(".", "9.", 1))
third = publish()
assert len(third) == 2 and len(set(third) & set(second)) == 1
"""


@pytest.mark.slow
def test_offline_files_hold_every_value_and_are_written_once(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder / "results", tmp_path / "results")
    code, out, errors = run_python(OFFLINE, tmp_path, tmp_path)
    assert (code, errors) == (0, "")
    totals = [line for line in out.splitlines() if line.startswith("wandb: ")]
    counts = [(2, 0), (0, 2), (1, 1), (1, 1)]
    assert totals == [f"wandb: {sent} sent, {left} there already" for sent, left in counts]
    for publication in published("figure4", tmp_path):
        (directory,) = (tmp_path / "wandb").glob(f"offline-run-*-{publication.id}")
        assert_holds(records(directory), publication)


def assert_holds(found: list[Any], publication: Publication) -> None:
    """The records of a W&B file are exactly what was to be published."""
    kinds: dict[str, list[Any]] = {}
    for record in found:
        kind = record.WhichOneof("record_type")
        kinds.setdefault(kind, []).append(getattr(record, kind))
    assert set(kinds) <= {"header", "run", "telemetry", "metric", "summary", "history", "exit"}
    run = kinds["run"][0]
    assert (run.run_id, run.run_group, run.job_type, run.project) == (
        publication.id,
        "figure4",
        "bpgrad",
        "tests",
    )
    assert list(run.tags) == publication.tags
    assert values(run.config.update) == publication.config | {"_wandb": {}}
    rows = [values(history.item) for history in kinds["history"]]
    logged = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
    assert logged == [*publication.epochs, *publication.iterations]
    axes = {metric.name: metric.step_metric for metric in kinds["metric"]}
    assert axes["epoch"] == axes["iteration"] == ""
    assert axes["train_objective"] == axes["images_per_second"] == "epoch"
    assert axes["iteration/step_size"] == "iteration"
    (summary,) = (s for s in (values(s.update) for s in kinds["summary"]) if "run" in s)
    assert summary == publication.summary | {"content_sha256": publication.sha256}
    assert [end.exit_code for end in kinds["exit"]] == [0]


# -- online --------------------------------------------------------------------------------------


class Project:
    """As much of ``wandb.Api`` and of a project as publishing uses; `init` stands for wandb's."""

    def __init__(self) -> None:
        self.there: dict[str, SimpleNamespace] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.exists = True
        self.breaks_after: int | None = None

    def runs(self, path: str, *, filters: dict[str, Any], lazy: bool) -> Iterable[Any]:
        self.asked.append((path, filters))
        if not self.exists:
            raise ValueError(f"Could not find project {path}")
        assert not lazy
        wanted = filters["group"]["$in"]
        return [run for run in self.there.values() if run.group in wanted]

    def init(
        self, mode: str, folder: Path, identity: dict[str, Any], *, resume: str, **_: object
    ) -> Any:
        assert (mode, resume) == ("online", "allow")
        run = self.there.setdefault(identity["id"], SimpleNamespace(rows={}, updates=0))
        vars(run).update(identity, state="crashed", summary={})

        def log(row: dict[str, float], step: int) -> None:
            if self.breaks_after is not None and step >= self.breaks_after:
                raise ConnectionError("the network went away")
            run.rows.setdefault(step, row)

        def update() -> None:
            run.updates += 1

        run.dir, run.log, run.update = str(folder / "run" / "files"), log, update
        run.define_metric = lambda *_, **__: None
        run.finish = lambda: setattr(run, "state", "finished")
        return run


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Project:
    found = Project()
    monkeypatch.setattr(wandb_mirror, "init", found.init)
    monkeypatch.setattr(wandb_mirror, "prepare", lambda folder: None)
    monkeypatch.setattr(wandb_mirror, "close_service", lambda: None)
    return found


def sent(project: Project, found: list[Publication], folder: Path) -> list[bool]:
    done = publish.publish_online(project, found, "me", "tests", folder)
    return [now for _, now in done]


def test_online_a_second_call_sends_nothing(
    project: Project, figure4: list[Publication], tmp_path: Path
) -> None:
    project.exists = False  # the first run creates it
    assert sent(project, figure4, tmp_path) == [True, True]
    project.exists = True
    for publication in figure4:
        run = project.there[publication.id]
        assert list(run.rows.values()) == [*publication.epochs, *publication.iterations]
        assert run.summary == publication.summary | {"content_sha256": publication.sha256}
    before = {name: vars(run).copy() for name, run in project.there.items()}
    assert sent(project, figure4, tmp_path) == [False, False]
    assert {name: vars(run) for name, run in project.there.items()} == before
    assert project.asked[-1] == ("me/tests", {"group": {"$in": ["figure4"]}})


def test_online_a_cut_run_is_completed(
    project: Project, figure4: list[Publication], tmp_path: Path
) -> None:
    project.breaks_after = 1000
    with pytest.raises(BPGradError, match="network went away; what was sent before stays"):
        sent(project, figure4, tmp_path)
    assert list(project.there) == [figure4[0].id]
    project.breaks_after = None
    assert sent(project, figure4, tmp_path) == [True, True]
    assert len(project.there[figure4[0].id].rows) == 2404
    assert sent(project, figure4, tmp_path) == [False, False]


def test_online_a_changed_record_leaves_the_group_to_its_successor(
    project: Project, figure4: list[Publication], tmp_path: Path
) -> None:
    sent(project, figure4, tmp_path)
    new = [changed(figure4[0]), figure4[1]]
    assert sent(project, new, tmp_path) == [True, False]
    assert project.there[figure4[0].id].group == publish.SUPERSEDED
    assert [run.updates for run in project.there.values()] == [1, 0, 0]
    assert [r.group for r in project.runs("", filters={"group": {"$in": ["figure4"]}}, lazy=False)]
    assert sent(project, new, tmp_path) == [False, False]
    assert sent(project, figure4, tmp_path) == [True, False]  # and back again
    assert project.there[new[0].id].group == publish.SUPERSEDED
    assert project.there[figure4[0].id].group == "figure4"


def test_an_error_of_the_server_is_one_line(
    figure4: list[Publication], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def runs(self, *_: object, **__: object) -> Iterator[Any]:
            raise RuntimeError("permission\ndenied")

    monkeypatch.setattr(wandb_mirror, "close_service", lambda: None)
    with pytest.raises(BPGradError, match="W&B: me/tests: permission denied; what was"):
        list(publish.publish_online(Broken(), figure4, "me", "tests", tmp_path))


@pytest.mark.slow
def test_the_real_client_adds_what_a_cut_run_lacks(
    server: Server,  # noqa: F811
    folder: Path,
    figure4: list[Publication],
    tmp_path: Path,
) -> None:
    """Two runs with one id: the server has the rows of the first when the second comes."""
    body = f"""
import dataclasses, sys
from pathlib import Path
from experiments.engine import publish
from tests.records.test_publish import published
whole = published("figure4", Path({str(folder)!r}))[0]
whole = dataclasses.replace(whole, iterations=whole.iterations[:20])
cut = dataclasses.replace(whole, iterations=whole.iterations[:10])
for run in (cut, whole):
    run.__dict__["sha256"] = "0" * 64
    publish._send("online", Path({str(tmp_path)!r}), run, "me", "tests")
    publish.wandb_mirror.close_service()
"""
    code, _, errors = run_python(
        body, tmp_path, tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url
    )
    assert (code, errors) == (0, "")
    on_server = [json.loads(line) for line in server.history]
    logged = [{k: v for k, v in row.items() if not k.startswith("_")} for row in on_server]
    assert logged == [*figure4[0].epochs, *figure4[0].iterations[:20]]
    assert server.exit_codes == [0, 0]


# -- the command ---------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(
    folder: Path,
    figure4: list[Publication],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    publish_wandb.main(["figure4", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [p.id for p in figure4]
    assert lines[0].endswith("mnist, BPGrad, seed 0: 4 epochs, 2400 iterations")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["figur4"], "unknown figur4.*figure4"),
        (["figure4"], "no finished run of figure4 is recorded"),
        (["figure4", "--scale", "smoke"], "no finished run of figure4-smoke is recorded"),
    ],
)
def test_what_cannot_be_published_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BPGradError, match=message) as error:
        publish_wandb.main(words)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_a_study_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = declaration.Study("a_study", "A study", "a_study")
    monkeypatch.setattr(declaration, "load_all", lambda folder: [study])
    monkeypatch.setattr(declaration, "names", lambda folder: ["a_study"])
    with pytest.raises(ConfigError, match="a_study is a study without training runs"):
        publish_wandb.main(["a_study"])


@pytest.mark.slow
def test_without_an_account_the_command_names_the_way_out(folder: Path, tmp_path: Path) -> None:
    body = (
        "from bpgrad.training.cli import run_command\n"
        "from scripts.publish_wandb import main\n"
        "run_command(lambda: main(['figure4']))"
    )
    code, _, errors = run_python(body, tmp_path, folder)
    assert code == 2
    assert errors == (
        "error: W&B: no API key: run `wandb login` or set WANDB_API_KEY (--mode offline needs "
        "neither account nor network)\n"
    )
    assert not (folder / "wandb").exists()


# -- workspaces ----------------------------------------------------------------------------------

WITHOUT = "wandb-workspaces is not installed (the extra `dashboards`)"


def views(experiment: str) -> list[Any]:
    pytest.importorskip("wandb_workspaces", reason=WITHOUT)
    from experiments.engine import workspace

    loaded = declaration.load(SUITE.folder / f"{experiment}.yaml")
    assert isinstance(loaded, declaration.Experiment)
    return list(workspace.workspaces(runner.prepare(loaded), "me", "tests"))


def test_workspaces_survive_the_schema_of_the_library() -> None:
    """Written, parsed by the library's models and turned into its own objects again."""
    found = views("figure7")
    assert [view.name for view in found] == ["figure7, mnist", "figure7, cifar10"]
    from wandb_workspaces.reports.v2.interface import LinePlot
    from wandb_workspaces.workspaces import Workspace, internal

    model = found[1]._to_model()
    text = model.spec.model_dump_json(by_alias=True, exclude_none=True)
    model.spec = internal.WorkspaceViewspec.model_validate_json(text)
    read = Workspace._from_model(model)
    plots = [plot for section in read.sections for plot in section.panels]
    assert all(isinstance(plot, LinePlot) for plot in plots)
    assert {(plot.x.name, *(metric.name for metric in plot.y)) for plot in plots} == {
        ("epoch", "train_objective"),
        ("epoch", "train_top1_error"),
        ("epoch", "val_objective"),
        ("epoch", "val_top1_error"),
        ("epoch", "step_size_min"),
        ("epoch", "step_size_median"),
        ("epoch", "step_size_max"),
        ("iteration", "iteration/step_size"),
        ("epoch", "images_per_second"),
    }
    assert {(p.groupby_aggfunc, p.groupby_rangefunc) for p in plots} == {("mean", "minmax")}
    assert [group.name for group in read.runset_settings.groupby] == ["solver_label"]
    assert read.runset_settings.filters == (
        "Metric(\"Group\") == 'figure7' and Config(\"task_name\") == 'cifar10'"
    )
    assert read.sections[2].name == "Step size η_t"


def test_the_panels_show_what_is_published(figure4: list[Publication]) -> None:
    keys = {*figure4[0].epochs[0], *figure4[0].iterations[0]}
    for view in views("figure4"):
        for plot in (plot for section in view.sections for plot in section.panels):
            assert {plot.x, *plot.y} <= keys
        assert {group.name for group in view.runset_settings.groupby} <= set(figure4[0].config)
    assert "task_name" in figure4[0].config


def test_a_workspace_that_the_schema_loses_something_of_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = views("figure4")[0]
    from wandb_workspaces.workspaces import Section

    from experiments.engine import workspace

    monkeypatch.setattr(Section, "_from_model", lambda model: Section(name=model.name))
    with pytest.raises(BPGradError, match="figure4, mnist: wandb-workspaces reads it otherwise"):
        workspace.check(view)


def test_saving_again_replaces_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces", reason=WITHOUT)
    from wandb_workspaces.workspaces import interface, internal

    from experiments.engine import workspace

    saved: dict[str, dict[str, Any]] = {}

    def execute(api: object, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "allViews" in query:
            if variables["projectName"] != "tests":
                return {"project": None}
            nodes = [view for name, view in saved.items() if name == variables["viewName"]]
            return {"project": {"allViews": {"edges": [{"node": node} for node in nodes]}}}
        view = {**variables, "id": f"id of {variables['name']}"}
        assert variables.get("id") == saved.get(variables["name"], {}).get("id")
        saved[variables["name"]] = view
        return {"upsertView": {"view": view}}

    monkeypatch.setattr(internal, "execute_graphql", execute)
    monkeypatch.setattr(internal.wandb, "Api", lambda: None)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.example")
    for _ in range(2):
        addresses = [workspace.save(view) for view in views("figure4")]
        assert len(saved) == len(set(addresses)) == 2
    assert addresses[0].startswith("https://wandb.example/me/tests?nw=")
    view = views("figure4")[0]
    view.project = "elsewhere"
    with pytest.raises(BPGradError, match="figure4, mnist: Project `me/elsewhere` not found"):
        workspace.save(view)
