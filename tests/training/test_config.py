"""Composition, validation, and the identity of a run."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bpgrad.errors import ConfigError
from bpgrad.training import composition
from bpgrad.training.composition import composed
from bpgrad.training.config import CONFIG_DIR, load, register, solver_spec, task_class
from bpgrad.training.identity import describe, run_name
from bpgrad.training.signatures import _fits, check_arguments

TASKS = sorted(p.stem for p in (CONFIG_DIR / "task").glob("*.yaml"))
SOLVERS = sorted(p.stem for p in (CONFIG_DIR / "solver").glob("*.yaml"))
SCALES = sorted(p.stem for p in (CONFIG_DIR / "scale").glob("*.yaml"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_task_composes_with_every_solver_and_scale(task: str, solver: str) -> None:
    for scale in SCALES:
        # By its values, which are composed once for all scales (see the next test).
        cfg = load([f"task={task}", f"solver={solver}", *values_of(scale)])
        assert cfg.task["name"] == task  # the file's name is the name
        assert solver_spec(cfg).name == solver
        assert cfg.scale.name == scale
        assert run_name(cfg).startswith(f"{task}/{solver}/seed0-")


def values_of(scale: str) -> list[str]:
    """What the choice of a scale sets, one by one; they are set after all files are read."""
    text = (CONFIG_DIR / "scale" / f"{scale}.yaml").read_text()
    values = yaml.safe_load(text)
    if not text.startswith("# @package _global_"):
        values = {"scale": values}
    own = {f"scale.{key}": value for key, value in values.pop("scale").items()}
    return [f"{key}={json.dumps(value)}" for key, value in {**own, **values}.items()]


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_is_the_values_that_it_sets(scale: str) -> None:
    assert load(values_of(scale)) == load([f"scale={scale}"])
    assert load([f"scale={scale}"]).scale.name == scale


@pytest.mark.parametrize("choice", ["null", "[a,b]", "[adam]", "{a: 1}", "3", "true"])
def test_a_choice_that_is_no_name_is_told_with_the_choices(choice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([f"solver={choice}"])
    assert str(caught.value).startswith(f"unknown solver={choice}: ")
    assert str(caught.value).endswith(f"choices: {', '.join(SOLVERS)}")


def test_every_task_and_solver_named_in_the_design_is_there() -> None:
    recognition = ("digits", "mnist", "cifar10", "imagenet", "imagenette")
    voc = "voc_detection", "voc_segmentation", "voc2012_segmentation"
    assert set(TASKS) == {*recognition, *voc}
    assert set(SOLVERS) == {
        *("bpgrad", "bpgrad_released", "adagrad", "adadelta", "rmsprop", "adam", "eve", "sgd")
    }


# What ends the sections for other forms of a task.
FORMS = {"_without_batch_norm": "task.batch_norm=false", "_caffe": "task.form=caffe"}


def test_every_key_of_the_paper_settings_reaches_a_run() -> None:
    """A typo in paper.yaml would otherwise leave a default in force, silently."""
    settings = yaml.safe_load((CONFIG_DIR / "paper.yaml").read_text())
    assert set(settings) <= set(TASKS)
    for task, sections in settings.items():
        for section, values in sections.items():
            form = [option for end, option in FORMS.items() if section.endswith(end)]
            name = next((section.removesuffix(e) for e in FORMS if section.endswith(e)), section)
            assert name in {"all", *SOLVERS}
            for solver in SOLVERS if name == "all" else [name]:
                cfg = load([f"task={task}", f"solver={solver}", *form])
                found = {**cfg.solver, "epochs": cfg.epochs, "batch_size": cfg.batch_size}
                assert {k: found.get(k) for k in values} == values


def test_the_paper_settings_in_force() -> None:
    mnist = load(["task=mnist", "solver=bpgrad"])
    assert (mnist.epochs, mnist.batch_size, mnist.solver["lipschitz"]) == (50, 100, 15)
    cifar = load(["task=cifar10", "solver=adam"])
    spec = solver_spec(cifar)
    assert (cifar.epochs, spec.arguments["lr"], spec.lr_factors) == (100, 0.01, {31: 0.5, 61: 0.1})


@pytest.mark.parametrize(
    ("form", "epochs", "first", "decades"),
    [([], 20, 0.1, 3), (["task.batch_norm=false"], 60, 0.01, 2)],
)
def test_the_demos_rates_on_imagenet(
    form: list[str], epochs: int, first: float, decades: int
) -> None:
    """Of both forms of the net, in equal ratios down to 1e-4; other solvers have 20 epochs."""
    cfg = load(["task=imagenet", "solver=sgd", *form])
    assert cfg.epochs == epochs
    factors = solver_spec(cfg).lr_factors
    assert list(factors) == list(range(1, epochs + 1))
    for epoch, factor in factors.items():
        rate = first * 10 ** (-decades * (epoch - 1) / (epochs - 1))
        assert cfg.solver["lr"] * factor == pytest.approx(rate, rel=1e-5)
    assert load(["task=imagenet", "solver=adam", *form]).epochs == 20


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["solver.lr=-1", "solver=adam"], "solver=adam refuses"),
        (["solver.lipschitz=0"], "lipschitz"),
        (["solver.lipschitz=-3"], "lipschitz"),
        (["solver.lipschitz=nan"], "solver.lipschitz=nan: must be finite"),
        (["solver.lipschitz=inf"], "solver.lipschitz=inf: must be finite"),
        (["solver.lipschitz=big"], "solver.lipschitz='big': expected float"),
        (["solver.momentum=-0.5"], "momentum"),
        (["solver.rho=1"], "rho"),
        (["solver.weight_decay=-1", "solver=sgd"], "weight_decay"),
        (["solver.lr=nan", "solver=rmsprop"], "solver.lr=nan: must be finite"),
        (["solver.betas=[0.9]", "solver=adam"], "solver.betas=[0.9]"),
        (["solver.variant=other"], "variant"),
        (["solver.objective=sum"], "choose one of batch, epoch_mean, regularized_batch"),
        (["solver.optimizer=torch.optim.Nope"], "solver.optimizer=torch.optim.Nope: cannot be"),
        (["solver.optimizer=pathlib.Path"], "not a torch.optim.Optimizer"),
        (["solver=adagrad", "solver.lr_factors={zero: 1}"], "solver.lr_factors"),
        (["+solver.typo=1"], "unknown solver.typo: "),
        (["+solver.momentun=0.5"], "did you mean solver.momentum?"),
        (["+task.typo=1"], "unknown task.typo: "),
        (["task=cifar10", "task.initial_weights=mine"], "task.initial_weights='mine'"),
        (["task=cifar10", "task.mirror_validation=3"], "task.mirror_validation=3: expected bool"),
        (["+typo=1"], "unknown typo: "),
        (["+scale.typo=1"], "unknown scale.typo: "),
        (["batch_size=0"], "batch_size=0: must be at least 1"),
        (["epochs=0"], "epochs=0: must be at least 1"),
        (["epochs=-1"], "epochs=-1"),
        (["seed=-1"], "seed=-1"),
        (["seed=4294967296"], "seed=4294967296: must be from 0 to 2**32 - 1"),
        (["threads=0"], "threads=0"),
        (["scale.train_examples=0"], "scale.train_examples=0"),
        (["checkpoint_minutes=-1"], "checkpoint_minutes=-1"),
        (["precision=fp8"], "precision=fp8: choose one of fp32, tf32, bf16"),
        (["device=tpu"], "device=tpu: choose one of auto, cpu, cuda"),
        (["wandb.mode=sometimes"], "choose one of offline, online, disabled"),
    ],
)
def test_impossible_values_are_refused_in_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_solver_of_ones_own_needs_one_yaml_only(tmp_path: Path) -> None:
    """Any importable optimizer; what its constructor does not take is refused."""
    cfg = load(
        [
            "solver=sgd",
            "solver.name=mine",
            "solver.optimizer=torch.optim.NAdam",
            "~solver.nesterov",
            "~solver.momentum",
            "~solver.fused",
        ]
    )
    assert solver_spec(cfg).arguments["lr"] == 0.01
    with pytest.raises(ConfigError, match=r"unknown solver.momentum: did you mean"):
        load(["solver=sgd", "solver.optimizer=torch.optim.NAdam", "~solver.fused"])


def test_required_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"solver.lipschitz: required by BPGrad"):
        load(["~solver.lipschitz"])


# -- composition ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=3"],
        ["seed=3", "task=mnist", "seed=4", "solver.lipschitz=7"],
        ["scale=smoke", "wandb.mode=offline", "seed=05"],
        ["epochs=3", "solver.lr=1e-3", "solver=adam", "solver.betas=[0.5,0.75]", "threads=null"],
        ["data_root='a folder, with=signs'", "results_root=${data_root}/x", "batch_size=7"],
        ["solver.lr=1", "solver.lr=2", "wandb={mode: online}", "download=true", "solver=sgd"],
        ["solver=sgd", "solver.lr=3", "~solver.momentum", "+solver.new=1", "solver.new=2"],
    ],
)
def test_a_remembered_composition_is_that_of_hydra(overrides: list[str]) -> None:
    register()
    composed(CONFIG_DIR, ["seed=1", *overrides])  # remembered without the seed
    found = composed(CONFIG_DIR, overrides)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        assert found == compose("config", overrides=overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["typo=1"],
        ["solver.typo=1"],
        ["epochs=some"],
        ["epochs=1,2"],
        ["solver.lr=1,2"],
        ["solver.lr=["],
        ["solver.new=1", "+solver.new=2"],
        ["solver=sgd", "solver.momentum=1", "~solver.momentum", "solver.momentum=2"],
    ],
)
def test_what_cannot_be_composed_is_told_in_the_words_of_hydra(overrides: list[str]) -> None:
    register()
    composed(CONFIG_DIR, [])
    with pytest.raises(HydraException) as told:
        composed(CONFIG_DIR, overrides)
    with (
        initialize_config_dir(str(CONFIG_DIR), version_base="1.3"),
        pytest.raises(HydraException) as asked,
    ):
        compose("config", overrides=overrides)
    assert repr(told.value) == repr(asked.value)


def test_settings_that_differ_in_values_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    composed(CONFIG_DIR, ["task=mnist", "solver=eve"])
    monkeypatch.setattr(composition, "compose", lambda *_, **__: pytest.fail("composed again"))
    for lr in (0.5, 0.25):
        overrides = ["task=mnist", "seed=2", f"solver.lr={lr}", "solver=eve", "epochs=3"]
        found = composed(CONFIG_DIR, overrides)
        assert (found.seed, found.epochs, found.solver.lr) == (2, 3, lr)


def test_a_remembered_composition_is_forgotten_when_a_file_changes(tmp_path: Path) -> None:
    shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    file = tmp_path / "configs" / "solver" / "sgd.yaml"
    before = composed(tmp_path / "configs", ["solver=sgd"])
    before.solver.lr = 1e9  # a copy: nobody else sees that
    text = file.read_text()
    file.write_text(text.replace("momentum,0.9", "momentum,0.125"))
    assert file.read_text() != text
    after = composed(tmp_path / "configs", ["solver=sgd"])
    assert (after.solver.momentum, after.solver.lr) == (0.125, 0.01)


# -- identity ------------------------------------------------------------------------------------


def test_the_name_covers_what_changes_numbers_and_nothing_else() -> None:
    base = run_name(load())
    for same in (
        ["data_root=elsewhere"],
        ["results_root=elsewhere"],
        ["device=cpu"],
        ["threads=1"],
        ["logger=wandb", "wandb.mode=online"],
        ["checkpoint_minutes=1"],
        ["rerun=true"],
        ["solver.rho=0.10"],
        ["solver.lipschitz=20.0"],
        ["scale=paper"],
    ):
        assert run_name(load(same)) == base, same
    others = [
        run_name(load(other))
        for other in (
            ["seed=1"],
            ["epochs=21"],
            ["batch_size=31"],
            ["precision=bf16"],
            ["deterministic=false"],
            ["solver.rho=0.2"],
            ["solver.objective=regularized_batch"],
            ["solver.on_zero_gradient=random"],
            ["scale=smoke"],
            ["scale=smoke", "scale.val_examples=499"],
            ["task=mnist"],
        )
    ]
    assert len({base, *others}) == len(others) + 1


def test_recorded_names_are_never_lost() -> None:
    """Pinned: committed records are found by these names."""
    pinned = yaml.safe_load(Path(__file__).with_name("run_names.yaml").read_text())
    for overrides, name in pinned.items():
        assert run_name(load(overrides.split())) == name


def test_an_option_at_its_default_does_not_rename_a_run() -> None:
    """`variant: paper` is in the YAML file, yet a file without it describes the same run."""
    assert run_name(load(["~solver.variant"])) == run_name(load())
    assert run_name(load(["~solver.objective"])) == run_name(load())


def test_the_description_is_plain_yaml() -> None:
    described = describe(load(["task=cifar10", "solver=adam"]))
    assert yaml.safe_load(yaml.safe_dump(described)) == described
    assert described["data_md5"] == dict(task_class(load(["task=cifar10"])).data_md5(Path()))


# -- signatures ----------------------------------------------------------------------------------


class UnsizedProtocol(Protocol):
    """Not for isinstance."""


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, float, True),
        (True, float, False),
        (1.5, int, False),
        (True, int, False),
        ("1", float, False),
        (None, float | None, True),
        ([0.9, 0.99], tuple[float, float], True),
        ([0.9], tuple[float, float], False),
        ([0.9, "a"], tuple[float, float], False),
        (0.9, tuple[float, float], False),
        ([1, 2, 3], tuple[int, ...], True),
        ([1, "a"], list[int], False),
        ("1", Any, True),
        ([1], tuple, True),
        (1, Iterable[int], True),
        (1, UnsizedProtocol, True),
        (1, TypeVar("T"), True),
    ],
)
def test_types_follow_the_annotation(value: object, hint: object, fits: bool) -> None:
    assert _fits(value, hint) is fits


@given(st.floats() | st.integers() | st.booleans() | st.text() | st.none())
def test_any_annotation_takes_anything(value: object) -> None:
    def function(first: object, *, option: object = None) -> None: ...

    check_arguments(function, {"option": value}, "group", given=1)


def test_config_files_show_what_they_set() -> None:
    """Every solver file names itself and its class; no file relies on another."""
    for solver in SOLVERS:
        node = OmegaConf.load(CONFIG_DIR / "solver" / f"{solver}.yaml")
        assert node["name"] == solver
        assert "." in node["optimizer"]


@pytest.mark.parametrize(
    ("task", "examples"),
    [("digits", (1000, 500)), ("voc_detection", (16, 8)), ("mnist", (1000, 500))],
)
def test_smoke_takes_a_minute_of_tasks_of_images_too(task: str, examples: tuple[int, int]) -> None:
    scale = load([f"task={task}", "scale=smoke"]).scale
    assert (scale.train_examples, scale.val_examples) == examples
    assert load([f"task={task}", "scale=smoke", "scale.val_examples=3"]).scale.val_examples == 3
