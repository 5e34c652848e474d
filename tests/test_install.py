"""The library as a package: what the wheel holds, and that its optimizers need only the base."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.environments import lend_bytecode
from tests.forked import forked

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UV = Path(sys.executable).with_name("uv")
# What torch's wheels for CUDA bring on Linux beside torch itself.
CUDA = re.compile(r"nvidia-|cuda-|triton$")

USE = """
import torch
from bpgrad.branch_prune import minimize
from bpgrad.optim import BPGrad, Eve, MatConvNetAdam
torch.manual_seed(0)
for solver, settings in ((BPGrad, {"lipschitz": 10}), (Eve, {}), (MatConvNetAdam, {})):
    model = torch.nn.Linear(3, 1)
    before = model.weight.detach().clone()
    optimizer = solver(model.parameters(), **settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(**({} if solver is MatConvNetAdam else {"loss": torch.tensor(2.0)}))
    assert not torch.equal(before, model.weight)
    assert model.weight.isfinite().all()
found = minimize(lambda x: x[0] ** 2, lambda x: 2 * x, [(-1, 2)], lipschitz=4, eps=0.05)
assert found.success
"""


def python(code: str, interpreter: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [interpreter, "-c", code],
        cwd="/",
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def run_without(blocked: list[str], code: str) -> tuple[int, str]:
    """Exit status and messages of code that imports bpgrad where some packages are not there."""

    def run() -> None:
        sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]
        exec(code, {"__name__": "__main__"})

    return forked(run, forget=["bpgrad", *blocked])


def modules_of_the_suite() -> list[str]:
    """The top-level modules of the distributions that only the extra asks for."""
    names = {
        canonicalize_name(Requirement(text).name)
        for text in PROJECT["optional-dependencies"]["suite"]
    }
    names -= {Requirement(text).name for text in PROJECT["dependencies"]}  # a later one, of some
    names -= {"filelock"}  # torch needs it too
    owners = importlib.metadata.packages_distributions()
    return [name for name, found in owners.items() if names & set(map(canonicalize_name, found))]


def test_optimizers_and_branch_and_prune_import_nothing_of_the_suite() -> None:
    blocked = modules_of_the_suite()
    assert {"hydra", "pandas", "matplotlib", "torchvision", "wandb", "yaml"} <= set(blocked)
    status, said = run_without(blocked, f"{USE}\nimport bpgrad.tasks.classification")
    assert status == 0, said


def test_the_optimizers_import_themselves_alone() -> None:
    """Beyond torch and NumPy no module: importing them then takes milliseconds, on any machine."""
    code = (
        "import sys, numpy, torch\n"
        "before = set(sys.modules)\n"
        "import bpgrad.optim\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    beyond = [name for name in done.stdout.split() if not name.startswith("bpgrad.optim")]
    assert beyond == ["bpgrad"]


@pytest.mark.parametrize("package", ["training", "records", "reporting"])
def test_the_packages_of_the_suite_say_what_to_install(package: str) -> None:
    status, said = run_without(modules_of_the_suite(), f"import bpgrad.{package}")
    assert status == 1
    last = said.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: bpgrad.{package} needs ")
    assert "yaml" in last or "pandas" in last
    assert "pip install 'bpgrad[suite]'" in last


def test_the_command_says_what_to_install() -> None:
    code = (
        "import runpy, sys; sys.modules['hydra'] = None; "
        "runpy.run_path('run.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: run.py needs hydra: pip install 'bpgrad[suite]', or make setup in a checkout\n"
    )


def test_the_base_is_three_distributions() -> None:
    assert [Requirement(text).name for text in PROJECT["dependencies"]] == [
        *("numpy", "scipy", "torch")
    ]


# -- built and installed ---------------------------------------------------------------------------


def build(source: Path, into: Path, *options: str, **env: str) -> None:
    """An sdist, and a wheel that is built from it, if the options do not say otherwise."""
    subprocess.run([UV, "build", "--quiet", *options, "--out-dir", into, source],
                   env=os.environ | env, check=True)  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has, without what was built in this one; skips without a package index."""
    probe = [UV, "pip", "compile", "--quiet", "--no-deps", "-"]
    reached = subprocess.run(probe, input="six\n", capture_output=True, text=True, check=False)
    if reached.returncode != 0:
        pytest.skip("no package index can be reached")
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "run.py"):
        shutil.copy(ROOT / name, copy)
    for name in ("bpgrad", "configs", "experiments", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path) -> tuple[Path, Path]:
    """Sdist and wheel."""
    build(checkout, checkout / "dist")
    (sdist,), (wheel,) = ((checkout / "dist").glob(kind) for kind in ("*.tar.gz", "*.whl"))
    return sdist, wheel


@pytest.mark.slow
@pytest.mark.install
def test_sdist_and_wheel_hold_the_library_and_all_of_it(
    checkout: Path, built: tuple[Path, Path]
) -> None:
    library = {str(p.relative_to(checkout)) for p in (checkout / "bpgrad").rglob("*.*")}
    with tarfile.open(built[0]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert {name for name in names if name.startswith("bpgrad/")} == library
    assert not [name for name in names if name.startswith(("tests", "experiments", "configs"))]
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {name for name in library if name.endswith(".c")}
    kernels = {name for name in names if name.endswith(".so")}
    assert names - kernels == library - sources
    assert len(kernels) == (1 if shutil.which("cc") else 0)


@pytest.mark.slow
@pytest.mark.install
def test_the_optimizers_work_from_the_wheel_in_an_environment_of_their_own(
    checkout: Path, built: tuple[Path, Path], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    interpreter = tmp_path / "env" / "bin" / "python"
    install = [UV, "pip", "install", "--quiet", "--python", interpreter]
    # The lock's versions, so that nothing is downloaded that `make setup` has.
    lock = re.sub(r" \\\n +--hash=\S+", "", (ROOT / "requirements.lock").read_text())
    (tmp_path / "versions").write_text(lock)
    subprocess.run([*install, "--constraint", tmp_path / "versions", built[1]], check=True)
    lend_bytecode(tmp_path / "env")

    done = python(USE, interpreter)
    assert done.returncode == 0, done.stderr
    listed = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    names = {canonicalize_name(name) for name in python(listed, interpreter).stdout.split()}
    beside = sorted(name for name in names - {"bpgrad"} if not CUDA.match(name))
    assert len(beside) <= 12, beside
    for command in (["run.py"], ["-m", "experiments", "list"]):
        told = subprocess.run([interpreter, *command], cwd=checkout, capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert told.returncode != 0
        assert "pip install 'bpgrad[suite]'" in told.stderr
        assert told.stderr.count("\n") == 1

    # an editable installation finds the experiments from any folder
    subprocess.run([*install, "--no-deps", "--editable", checkout], check=True)
    where = "import importlib.util as u; print(u.find_spec('experiments'), u.find_spec('bpgrad'))"
    assert python(where, interpreter).stdout.count(str(checkout)) == 4


@pytest.mark.slow
@pytest.mark.install
def test_without_a_compiler_the_wheel_has_no_kernel_and_works(
    built: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(built[0], tmp_path / "dist", "--wheel", CC="false")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(tmp_path / "site")
    place = "import bpgrad.optim._fused as f; assert f.kernel() is None and '{}' in f.__file__"
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    status, said = run_without([], f"{place.format(tmp_path / 'site')}\n{USE}")
    assert status == 0, said
