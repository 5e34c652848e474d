"""The declarations, and how mistakes in them are told."""

from pathlib import Path

import pytest
import yaml

from bpgrad.errors import ConfigError, DataError
from bpgrad.reporting.display.style import SPARE_STYLES, line_styles, swept_solver
from bpgrad.training.config import CONFIG_DIR, Config, Scale, solver_spec
from bpgrad.training.config import load as compose
from bpgrad.training.identity import run_name
from experiments.__main__ import SUITE
from experiments.claims import CLAIMS
from experiments.engine.claim import Runs
from experiments.engine.declaration import Experiment, at_scale, load, load_all
from experiments.engine.printed import paper_values, printed
from experiments.engine.runner import execute, gather, prepare

GOOD = {
    "title": "A title",
    "seeds": [0],
    "tasks": ["digits"],
    "solvers": [{"label": "SGD", "set": ["solver=sgd"]}],
}


TASKS = CONFIG_DIR / "task"
FOLDER = SUITE.folder
EXPERIMENTS = [one for one in load_all(FOLDER) if isinstance(one, Experiment)]
OF_THE_PAPER = [one for one in EXPERIMENTS if one.paper]
ON_IMAGENETTE = [one for one in EXPERIMENTS if one.tasks == ("imagenette",)]


def declared(name: str) -> Experiment:
    experiment = load(FOLDER / f"{name}.yaml")
    assert isinstance(experiment, Experiment)
    return experiment


def declare(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    return path


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.name)
def test_every_run_of_every_experiment_composes(experiment: Experiment) -> None:
    if experiment.needs:
        pytest.skip(f"needs {experiment.needs}")
    plan = prepare(experiment)
    assert plan.name == experiment.name
    for run, cfg in plan.runs:
        assert (cfg.task["name"], cfg.seed) == (run.task, run.seed)
        assert cfg.scale.name == experiment.scale


@pytest.mark.parametrize(
    "experiment",
    [*OF_THE_PAPER, *(one for one in ON_IMAGENETTE if one.report)],
    ids=lambda one: one.name,
)
def test_every_solver_of_a_task_has_a_style_of_its_own(experiment: Experiment) -> None:
    styles = line_styles(tuple(solver.label for solver in experiment.solvers))
    for task in experiment.tasks:
        drawn = [
            styles[solver.label]
            for solver in experiment.solvers
            if solver.tasks is None or task in solver.tasks
        ]
        assert len(set(drawn)) == len(drawn)
        assert not set(drawn) & set(SPARE_STYLES)


def test_figure7_has_the_runs_of_the_paper() -> None:
    runs = [(run.task, run.solver) for run in declared("figure7").runs() if run.seed == 0]
    on = {task: {solver for t, solver in runs if t == task} for task in ("mnist", "cifar10")}
    assert on["mnist"] == {
        *("Adagrad", "Adadelta", "RMSProp", "Adam"),
        *("BPGrad, μ = 0", "BPGrad, μ = 0.9", "BPGrad (released code)"),
    }
    assert on["cifar10"] == on["mnist"] | {"Eve"}
    assert len(runs) == 15
    momentum = {
        run.solver: cfg.solver["momentum"]
        for run, cfg in prepare(declared("figure7")).runs
        if cfg.solver["name"] == "bpgrad"
    }
    assert momentum == {"BPGrad, μ = 0": 0, "BPGrad, μ = 0.9": 0.9}


def test_figures_4_and_6_share_their_runs() -> None:
    """Four epochs each, and the paper's L among them."""
    step_sizes, sweep = prepare(declared("figure4")).runs, prepare(declared("figure6")).runs
    assert {run_name(cfg) for _, cfg in step_sizes} < {run_name(cfg) for _, cfg in sweep}
    assert {cfg.epochs for _, cfg in (*step_sizes, *sweep)} == {4}
    reach = {
        task: sorted(cfg.solver["lipschitz"] for run, cfg in sweep if run.task == task)
        for task in ("mnist", "cifar10")
    }
    assert (reach["mnist"][0], reach["mnist"][-1]) == (10, 100)
    assert (reach["cifar10"][0], reach["cifar10"][-1]) == (50, 1000)
    assert {cfg.solver["lipschitz"] for _, cfg in step_sizes} == {15, 50}


def test_tables_and_figures_of_the_three_large_tasks_share_their_runs() -> None:
    for table, figure in (
        *(("table1", "figure8"), ("table2", "figure9"), ("table3", "figure10")),
        *(("table1-reduced", "figure8-reduced"), ("table2-reduced", "figure9-reduced")),
        ("table3-reduced", "figure10-reduced"),
    ):
        assert set(declared(figure).runs()) <= set(declared(table).runs())


def test_every_table_and_figure_of_the_paper_is_declared() -> None:
    everything = {one.paper: one.name for one in load_all(FOLDER)}
    for kind, count in (("Table", 3), ("Figure", 10)):
        for number in range(1, count + 1):
            assert everything.get(f"{kind} {number}") == f"{kind.lower()}{number}"


def test_the_claims_find_their_runs_in_the_declarations() -> None:
    """By experiment, task and label, and so do the paper's printed values."""
    found = {
        (one.name, task): {run.solver for run in one.runs() if run.task == task}
        for one in EXPERIMENTS
        for task in one.tasks
    }
    ids = {claim.id for claim in CLAIMS}
    assert {name for one in EXPERIMENTS for name in one.claims} <= ids
    for claim in CLAIMS:
        for need in claim.needs:
            if isinstance(need, Runs):
                assert set(need.solvers) <= found[need.experiment, need.task], claim.id
        for need in claim.reduced.needs if claim.reduced else ():
            if isinstance(need, Runs) and (need.experiment, need.task) in found:
                assert set(need.solvers) <= found[need.experiment, need.task], claim.id
    for _, row in paper_values(SUITE.paper_values).iterrows():
        assert row["solver"] in found[row["table"].lower().replace(" ", ""), row["task"]]
    tuned = [label.partition(", ") for label in found["adadelta_detection", "voc_detection"]]
    assert len(tuned) > 1
    assert all(solver == "Adadelta" and setting for solver, _, setting in tuned)


def test_what_waits_for_its_task_says_so_and_runs_once_that_is_there(tmp_path: Path) -> None:
    for experiment in EXPERIMENTS:
        lacking = [task for task in experiment.tasks if not (TASKS / f"{task}.yaml").exists()]
        assert bool(lacking) == bool(experiment.needs), experiment.name
        for task in lacking:
            assert f"the task {task}" in (experiment.needs or "")
    waiting = {"needs": "the moon"}
    with pytest.raises(ConfigError, match=r"^mine cannot run yet; it needs the moon$"):
        prepare(load(declare(tmp_path, **waiting)))
    assert len(prepare(load(declare(tmp_path))).runs) == 1


def test_the_settings_of_tasks_to_come_compose_with_their_solvers() -> None:
    """On the digits in their place, with the settings of configs/paper.yaml set by hand."""
    settings = yaml.safe_load((CONFIG_DIR / "paper.yaml").read_text())
    for overrides in {
        (run.task, *run.overrides[1:])
        for experiment in EXPERIMENTS
        for run in (experiment.runs([0]) if experiment.needs else ())
    }:
        task, choice, *others = overrides
        solver = choice.removeprefix("solver=")
        chosen = settings[task].get(solver, {})
        at = [f"solver.{key}={value}" for key, value in chosen.items()]
        assert compose(["task=digits", choice, *at, *others]).solver["name"] == solver


def test_the_quickstart_has_every_solver() -> None:
    solvers = {cfg.solver["name"] for _, cfg in prepare(declared("quickstart")).runs}
    assert solvers == {path.stem for path in (FOLDER.parent / "configs/solver").glob("*.yaml")}


def test_a_comparison_is_complete_before_the_next_seed_begins() -> None:
    runs = list(declared("figure7").runs([3, 5]))
    assert [run.seed for run in runs] == [3] * 17 + [5] * 17
    assert compose(runs[0].overrides).seed == 3


def test_seen_seeds_come_first_and_a_solver_added_later_does_not_take_part(tmp_path: Path) -> None:
    solvers = [*solver(), {"label": "Later", "set": ["solver=adam"], "seen": False}]
    experiment = load(declare(tmp_path, seen=[0], seeds=[1, 2], solvers=solvers))
    assert [(run.seed, run.solver) for run in experiment.runs()] == [
        *((0, "SGD"), (1, "SGD"), (1, "Later"), (2, "SGD"), (2, "Later"))
    ]
    assert [run.solver for run in experiment.runs([0])] == ["SGD", "Later"]
    with pytest.raises(ConfigError, match="seeds: 0 occurs twice"):
        load(declare(tmp_path, seen=[0], seeds=[0, 1]))


def test_the_registered_seeds() -> None:
    """docs/claims.md: the second rules are judged on seeds that nobody had seen."""
    eight = tuple(range(1, 9))
    planned = {each.name: (each.seen, each.seeds) for each in load_all(FOLDER)}
    for name in ("figure5", "figure7", "fidelity", "certificate", "sensitivity"):
        assert planned[name] == ((0,), eight), name
    for name in ("figure4", "figure6"):
        assert planned[name] == ((0, 1, 2), eight[2:]), name
    detection = ("table2", "figure9", "adadelta_detection")
    for name in (*detection, "table3", "figure10"):
        assert planned[name] == planned[f"{name}-reduced"] == ((), eight), name
    for name in ("table1", "figure8", "table1-reduced", "figure8-reduced"):
        assert planned[name] == ((), eight[:5]), name


def test_a_good_declaration(tmp_path: Path) -> None:
    experiment = load(declare(tmp_path, paper="Table 1", seeds=[1, 2]))
    assert (experiment.name, experiment.paper, experiment.seeds) == ("mine", "Table 1", (1, 2))
    assert [str(run) for run in experiment.runs()] == ["digits  SGD  seed 1", "digits  SGD  seed 2"]


def test_overrides_of_all_runs_come_before_those_of_a_solver(tmp_path: Path) -> None:
    solvers = [*solver(), {"label": "Long", "set": ["solver=sgd", "epochs=9"]}]
    experiment = load(declare(tmp_path, set=["epochs=3", "threads=1"], solvers=solvers))
    assert [cfg.epochs for _, cfg in prepare(experiment).runs] == [3, 9]
    plan = prepare(experiment, overrides=["threads=2"])
    assert (plan.name, plan.runs[0][1].threads) == ("mine", 2)


def test_one_at_the_reduced_scale_has_a_file_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / "mine-reduced.yaml"
    own.write_text(yaml.safe_dump(GOOD | {"scale": "reduced", "averaged": 2}))
    declare(tmp_path, set=["epochs=3"])
    reduced = at_scale(tmp_path, "mine", "reduced")
    assert reduced == at_scale(tmp_path, "mine-reduced", None) == (load(own), "reduced")
    assert at_scale(tmp_path, "mine", None) == (load(tmp_path / "mine.yaml"), "paper")
    assert isinstance(reduced[0], Experiment)
    plan = prepare(reduced[0])
    assert (plan.name, plan.declared.averaged) == ("mine-reduced", 2)
    assert {cfg.scale.name for _, cfg in plan.runs} == {"reduced"}
    own.unlink()
    assert at_scale(tmp_path, "mine", "reduced")[0] == load(tmp_path / "mine.yaml")
    assert prepare(load(tmp_path / "mine.yaml"), scale="reduced").name == "mine-reduced"


def test_a_curve_is_of_a_metric_of_the_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown curve: map: "):
        gather(prepare(load(declare(tmp_path, curve="map"))))


def solver(**changes: object) -> list[dict[str, object]]:
    return [GOOD["solvers"][0] | changes]  # type: ignore[index,operator]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"needs": 1}, "mine.needs=1: expected str or null"),
        ({"report": "no"}, "mine.report='no': expected bool"),
        ({"titel": "A"}, "unknown mine.titel: did you mean mine.title? choices: title, seeds,"),
        ({"name": "other"}, "unknown mine.name: choices: title, "),
        ({"title": None}, "mine.title=None: expected str"),
        ({"seeds": "0"}, "mine.seeds='0': expected tuple[int, ...]"),
        ({"seeds": []}, "seeds: at least one is needed"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 occurs twice"),
        ({"solvers": {"label": "SGD"}}, "solvers: must be a list of {label: ..., set: "),
        ({"solvers": ["sgd"]}, "solvers: must be a list of {label: ..., set: "),
        ({"solvers": solver(lable="x")}, "unknown solvers[0].lable: did you mean "),
        ({"solvers": [{"label": "SGD"}]}, "solvers[0].set: required by Solver; set it"),
        ({"solvers": 2 * solver()}, "label: SGD occurs twice"),
        ({"solvers": solver(set=["momentum=0"])}, "SGD: set: must name one solver, as in "),
        ({"solvers": solver(set=["solver=sgd", "seed=1"])}, "SGD: set: seed=1: the experiment "),
        ({"set": ["seed=1"]}, "set: seed=1: the experiment sets seed itself"),
        ({"fluctuation": 1}, "fluctuation: 1: must be at least 2 epochs, or 0"),
        ({"solvers": solver(tasks=[])}, "SGD: tasks: at least one is needed, or no such key"),
        ({"shows": "eta"}, "unknown shows: eta: choices: epochs, table, objective, step_size"),
        ({"scale": "smoke"}, "scale: smoke: must be paper or reduced"),
        ({"scale": "reduced"}, "scale: reduced: goes with names that end in -reduced alone"),
        ({"averaged": 0}, "averaged: 0: must be at least 1"),
        ({"solvers": solver(tasks=["mnist"])}, "unknown task mnist of SGD: choices: digits"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = declare(tmp_path, **changes)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


def test_what_is_not_yaml_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: [\nseeds: 0\n")
    with pytest.raises(ConfigError, match="not YAML") as refused:
        load(path)
    assert "\n" not in str(refused.value)
    path.write_text("- a list\n")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load(path)


def test_a_run_that_cannot_be_composed_is_named_before_any_starts(tmp_path: Path) -> None:
    solvers = [*solver(), {"label": "Bad", "set": ["solver=sgd", "solver.lr=-1"]}]
    with pytest.raises(ConfigError, match=r"^digits  Bad  seed 0: solver=sgd refuses its settings"):
        prepare(load(declare(tmp_path, solvers=solvers)))
    with pytest.raises(ConfigError, match=r"^mnits  SGD  seed 0: unknown task=mnits: did you mean"):
        prepare(load(declare(tmp_path, tasks=["mnits"])))


@pytest.mark.parametrize("override", ["task=mnist", "solver=adam", "seed=1", "scale=smoke"])
def test_what_the_experiment_sets_cannot_be_overridden(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=f"^--set {override}: the experiment sets"):
        prepare(load(declare(tmp_path)), overrides=[override])


def test_results_with_other_settings_have_another_name(tmp_path: Path) -> None:
    experiment = load(declare(tmp_path, paper="Table 1"))
    same = prepare(experiment, overrides=["threads=1", f"results_root={tmp_path}"])
    assert (same.name, same.title) == ("mine", "Table 1: A title")
    smoke = prepare(experiment, scale="smoke")
    assert (smoke.name, smoke.runs[0][1].scale.name) == ("mine-smoke", "smoke")
    assert "scale=smoke" in smoke.title
    changed = prepare(experiment, overrides=["epochs=1", "threads=1"])
    assert changed.name == "mine-modified"
    assert changed.title == "Table 1: A title (modified: epochs=1)"
    assert prepare(experiment, scale="smoke", overrides=["epochs=1"]).name == "mine-smoke-modified"


def test_an_edition_at_the_reduced_scale_is_declared_beside_its_experiment(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text(yaml.safe_dump(GOOD | {"paper": "Table 1"}))
    small = GOOD | {"scale": "reduced", "seeds": [1], "title": "A title (reduced)"}
    (tmp_path / "big-reduced.yaml").write_text(yaml.safe_dump(small))
    for scale, name in (("paper", "big"), ("smoke", "big-smoke"), ("reduced", "big-reduced")):
        found, asked = at_scale(tmp_path, "big", scale)
        assert isinstance(found, Experiment)
        plan = prepare(found, scale=asked)
        assert plan.name == name
        assert plan.runs[0][1].scale.name == scale
        assert ("not the full size" in plan.title) == (scale == "smoke")
    edition, asked = at_scale(tmp_path, "big-reduced", None)
    assert isinstance(edition, Experiment)
    assert asked == "reduced"
    assert prepare(edition).name == "big-reduced"
    assert prepare(edition, scale="smoke").name == "big-reduced-smoke"


def test_no_value_of_the_paper_stands_beside_the_reduced_edition() -> None:
    assert printed(SUITE.paper_values, "table1")
    assert {one.name for one in ON_IMAGENETTE} == {
        *("table1-reduced", "table1_whole-reduced", "table1_tuning-reduced", "figure8-reduced")
    }
    for one in ON_IMAGENETTE:
        assert not printed(SUITE.paper_values, one.name)
        assert one.paper is None
        assert "(reduced)" in one.title


@pytest.mark.parametrize("experiment", ON_IMAGENETTE, ids=lambda one: one.name)
def test_all_that_have_a_rate_follow_one_schedule_in_the_reduced_edition(
    experiment: Experiment,
) -> None:
    chosen = [solver for solver in experiment.solvers if "(" not in solver.label]
    has = {(swept_solver(one.label), "+solver.schedule=cosine" in one.set) for one in chosen}
    rated = {(name, True) for name in ("Adagrad", "RMSProp", "Adam", "SGD")}
    assert has == rated | {("Adadelta", False), ("BPGrad", False)}


@pytest.mark.parametrize("experiment", ON_IMAGENETTE, ids=lambda one: one.name)
def test_the_size_of_the_reduced_edition_on_imagenette(experiment: Experiment) -> None:
    sizes = {
        "table1_whole-reduced": (131, 4096, 256, 20, 0),
        "table1_tuning-reduced": (131, 1024, 128, 3, 0.1),
    }
    for _, cfg in prepare(experiment).runs:
        task = cfg.task
        found = task["resolution"], task["width"], cfg.batch_size, cfg.epochs, task["holdout"]
        assert found == sizes.get(experiment.name, (131, 1024, 128, 10, 0))
        assert cfg.scale == Scale("reduced", None, None)  # all images


def test_the_reduced_scale_of_imagenette_is_the_reduced_edition() -> None:
    plan = prepare(declared("table1-reduced"))
    one = compose(["task=imagenette", "scale=reduced", "solver=bpgrad", "seed=1"])
    assert run_name(one) in {run_name(cfg) for _, cfg in plan.runs}


def test_the_budget_of_the_reduced_edition_on_imagenette() -> None:
    """Three settings a solver or more, one the table's, with a seed that it does not have."""
    tuning, table = declared("table1_tuning-reduced"), declared("table1-reduced")
    assert (tuning.seeds, tuning.shows, tuning.report, tuning.averaged) == ((0,), "sweep", False, 1)
    assert not set(tuning.seeds) & set(table.seeds)
    found: dict[str, list[tuple[str, ...]]] = {}
    for solver in tuning.solvers:
        found.setdefault(swept_solver(solver.label), []).append(solver.set)
        _, setting, *_ = solver.set
        assert float(solver.label.rpartition(" = ")[2]) == float(setting.partition("=")[2])
    chosen = {one.label: one.set for one in table.solvers if "(" not in one.label}
    assert set(found) == set(chosen)
    for label, settings in found.items():
        assert len(set(settings)) >= 3
        assert chosen[label] in settings


def test_the_rates_of_the_demo_over_the_run() -> None:
    """SGD from 0.1 to 1e-4, in equal ratios from epoch to epoch."""
    for name, epochs in (("table1-reduced", 10), ("table1_whole-reduced", 20)):
        runs = prepare(declared(name)).runs
        cfg = next(cfg for run, cfg in runs if run.solver == "SGD (demo's schedule)")
        factors = solver_spec(cfg).lr_factors
        assert list(factors) == list(range(1, epochs + 1))
        for epoch, factor in factors.items():
            rate = 10 ** (-1 - 3 * (epoch - 1) / (epochs - 1))
            assert cfg.solver["lr"] * factor == pytest.approx(rate, rel=1e-5)


def test_data_that_are_missing_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def train(cfg: Config) -> None:
        begun.append(cfg.seed)
        raise DataError("digits: gone")

    monkeypatch.setattr("bpgrad.training.trainer.train", train)
    experiment = load(declare(tmp_path, seeds=[0, 1, 2]))
    assert isinstance(experiment, Experiment)
    assert execute(prepare(experiment)) == 3
    assert begun == [0]
    told = "error: digits  SGD  seed 0: digits: gone\n"
    assert capsys.readouterr().err == told
    experiment = load(declare(tmp_path, seeds=[0, 1], takes="the moon, 3 days"))
    assert isinstance(experiment, Experiment)
    execute(prepare(experiment))
    assert capsys.readouterr().err == f"{told}it takes the moon, 3 days\n"
