"""The promises of README, Makefile, lock files and of the house itself."""

import ast
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from experiments.engine.command import COMMANDS
from tests.environments import lend_bytecode
from tests.forked import forked
from tests.kernel import BUILT
from tests.training.test_command_line import run_in_process

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
SMALL = [
    "scale=smoke",
    "scale.train_examples=320",
    "scale.val_examples=100",
    "epochs=1",
    "threads=1",
]


def commands(prefix: str) -> list[str]:
    """The command lines of the README's code blocks that begin so, without their comments."""
    lines = [line.partition(" #")[0].strip() for _, block in BLOCKS for line in block.splitlines()]
    return [line for line in lines if line.startswith(prefix)]


# -- README --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("line", commands("python run.py"))
def test_the_commands_of_the_readme_run(
    line: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = shlex.split(line)[2:]
    if "task=mnist" in words:
        request.getfixturevalue("data_root")  # skips without the data
    if "--help" not in words:
        words += [w for w in SMALL if w not in words]
    monkeypatch.chdir(tmp_path)
    assert run_in_process(words, monkeypatch) == 0, capfd.readouterr().err
    if "--help" not in words:
        runs = list((tmp_path / "results" / "smoke").rglob("result.json"))
        assert len(runs) == (6 if "-m" in words else 1)


def test_the_readme_names_the_experiments_that_exist() -> None:
    names = {line.split()[3] for line in commands("python -m experiments")}
    assert names
    assert names <= {path.stem for path in (ROOT / "experiments").glob("*.yaml")} | set(COMMANDS)


def test_the_python_of_the_readme_runs() -> None:
    """That of docs/solvers.md is run by tests/optim/test_loops_of_others.py."""
    import torch

    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    batch = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    names = {
        "model": model,
        "criterion": torch.nn.CrossEntropyLoss(),
        "inputs": batch[0],
        "targets": batch[1],
        "batches": [batch, batch],
    }
    exec("\n".join(snippets), names)
    assert not torch.equal(model.weight, before)


def test_the_table_of_the_solvers_page_is_the_measured_one() -> None:
    """Rebuilt from the record: nothing in it was typed."""
    from bpgrad.records.files import replace_between
    from scripts.bench_solvers import MARKS, as_markdown

    report = json.loads((ROOT / "results" / "bench" / "solvers.json").read_text())
    table = as_markdown(report)
    assert (ROOT / "results" / "bench" / "solvers.md").read_text() == table
    page = (ROOT / "docs" / "solvers.md").read_text()
    assert replace_between(page, MARKS, table) == page
    assert replace_between(page, MARKS, "") != page


def test_the_solver_file_of_the_readme_trains(tmp_path: Path) -> None:
    from bpgrad.training.config import load
    from bpgrad.training.trainer import train

    (text,) = [block for language, block in BLOCKS if language == "yaml"]
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "mine.yaml").write_text(text)
    cfg = load(
        [
            f"hydra.searchpath=[file://{tmp_path}]",
            "solver=mine",
            *SMALL,
            f"results_root={tmp_path}/runs",
            f"checkpoint_root={tmp_path}/checkpoints",
        ]
    )
    assert train(cfg)["run"].startswith("digits/mine/")


def test_the_links_of_the_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


# -- Makefile ------------------------------------------------------------------------------------


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: ([\w-]+)$", makefile, flags=re.MULTILINE))
    shown = make("help")
    assert set(re.findall(r"^  make ([a-z]\S+)", shown, flags=re.MULTILINE)) == targets
    assert {"quickstart", "test", "report", "bench"} <= targets
    words = set(shown.split())
    declared = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    assert declared <= words


@pytest.mark.parametrize(("kind", "count"), [("table", 3), ("figure", 10)])
def test_every_table_and_figure_of_the_paper_has_its_targets(kind: str, count: int) -> None:
    names = [f"{kind}{number}" for number in range(1, count + 1)]
    ready = "--old-file=.venv/.ready"  # not made again for being out of date
    done = make("--dry-run", ready, *names, *(f"{name}-reduced" for name in names), "ARGS=--show")
    calls = re.findall(r"-m experiments (.+)", done)
    editions = [
        f"{name}-reduced" for name in names
    ]  # some are declared, with settings of their own
    assert calls == [
        *(f"{name} --show" for name in names),
        *(
            f"{edition} --show"
            if (ROOT / f"experiments/{edition}.yaml").exists()
            else f"{name} --scale reduced --show"
            for name, edition in zip(names, editions, strict=True)
        ),
    ]


# -- locks and environments ----------------------------------------------------------------------


def pins(lock: str) -> dict[str, list[str]]:
    """Versions by distribution; a universal lock may have several, for different markers."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^ ;\\]+)", lock, flags=re.MULTILINE):
        found.setdefault(name, []).append(version)
    return found


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-uv.lock"])
def test_every_pin_has_a_hash_and_no_address(name: str) -> None:
    lock = (ROOT / name).read_text()
    entries = re.split(r"\n(?=[\w.-]+==)", lock)[1:]
    assert len(entries) == sum(len(v) for v in pins(lock).values()) - (not lock.startswith("#"))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.splitlines()[0]
    assert "://" not in lock
    assert "index-url" not in lock


def test_the_lock_covers_what_pyproject_asks_for() -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = pins((ROOT / "requirements.lock").read_text())
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["suite"], *extras["dev"]]:
        wanted = Requirement(text)
        assert wanted.name.lower() in locked, text
        for version in locked[wanted.name.lower()]:
            assert wanted.specifier.contains(version), (text, version)


def test_no_test_waits_for_a_package_that_no_extra_asks_for() -> None:
    """It would be skipped for ever."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {Requirement(text).name.lower().replace("-", "_") for each in asked for text in each}
    names |= {"cv2", "triton"}  # of opencv-contrib-python-headless; of torch, where it has GPUs
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for module in re.findall(r'(?:importorskip|wanted)\(\s*"(\w+)', path.read_text()):
            assert module.lower() in names, (path, module)


def test_what_is_installed_is_what_is_locked() -> None:
    from importlib.metadata import version

    locked = pins((ROOT / "requirements.lock").read_text())
    for name in ("torch", "torchvision", "hydra-core", "numpy", "wandb", "scikit-learn"):
        assert version(name).partition("+")[0] in locked[name]


def conda_pip_lines() -> list[str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    return list(pip)


def test_environment_yml_is_python_and_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert [entry.partition("=")[0] for entry in plain] == ["python", "pip"]
    assert conda_pip_lines() == ["--require-hashes", "--requirement requirements.lock"]


@pytest.mark.slow
@pytest.mark.install
def test_the_pip_section_of_environment_yml_installs(tmp_path: Path) -> None:
    """As conda does it: the lines in a requirements file beside environment.yml."""
    uv = Path(sys.executable).with_name("uv")
    probe = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--no-deps", "-"],
        input="six\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip("no package index can be reached")
    requirements = tmp_path / "conda-requirements.txt"
    requirements.write_text("\n".join(conda_pip_lines()) + "\n")
    (tmp_path / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "-r", requirements], check=True
    )
    lend_bytecode(tmp_path / "env")
    seen = subprocess.run(
        [python, "-c", "import bpgrad.training.trainer, torch; print(torch.__version__)"],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    locked = pins((ROOT / "requirements.lock").read_text())["torch"]
    assert seen.stdout.strip().partition("+")[0] in locked


# -- the house -----------------------------------------------------------------------------------

MAY_IMPORT = {
    "errors": set(),
    "world": {"errors"},
    "signals": set(),
    "suite": set(),
    "startup": set(),
    "optim": set(),
    "branch_prune": set(),
    "models": {"errors"},
    "metrics": {"errors"},
    "data": {"errors", "signals"},
    "tasks": {"data", "models", "metrics", "world", "errors"},
    "records": {"suite", "errors"},
    "training": {
        *("suite", "startup", "tasks", "metrics", "optim", "records", "world", "errors", "signals"),
    },
    "reporting": {"suite", "records", "metrics", "errors"},
}

# Of the packages in experiments/: figure5 measures at the settings that the claims on it name.
EXPERIMENTS_MAY_IMPORT = {
    "engine": set(),
    "claims": {"engine"},
    "studies": {"engine", "claims"},
    "ablation": set(),
    "findings": {"claims"},
    "__main__": {"engine", "claims", "findings"},
}

REPORTING_MAY_IMPORT = {
    "runs": set(),
    "inference": set(),
    "display": {"runs", "inference"},
    "page": {"runs", "inference", "display"},
}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports at any time, and every name that it takes from one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_what_is_run_as_on_other_processors_exists() -> None:
    from scripts.test_portable import COMPUTES

    assert [path for path in COMPUTES if not (ROOT / path).exists()] == []


def test_the_kernel_is_built_where_there_is_a_compiler(tmp_path: Path) -> None:
    """Without it all would still work, several times slower, and the tests of it would skip."""
    (tmp_path / "empty.c").write_text("#include <omp.h>\nint main(void) { return 0; }\n")
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    try:
        subprocess.run(
            [compiler, "-fopenmp", "empty.c"], cwd=tmp_path, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler with OpenMP")
    assert BUILT


def parts_of(package: str) -> Iterator[tuple[Path, str, set[str]]]:
    """Every module below a package, the part of it that it is in, and the parts it imports."""
    folder = ROOT.joinpath(*package.split("."))
    for path in sorted(folder.rglob("*.py")):
        part = path.relative_to(folder).parts[0].removesuffix(".py")
        imported = (
            name.removeprefix(f"{package}.")
            for name in imports_of(path)
            if name.startswith(f"{package}.")
        )
        if part != "__init__":
            yield path, part, {name.split(".")[0] for name in imported}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("bpgrad", MAY_IMPORT),
        ("bpgrad.reporting", REPORTING_MAY_IMPORT),
        ("experiments", EXPERIMENTS_MAY_IMPORT),
    ],
)
def test_imports_run_one_way(package: str, allowed: dict[str, set[str]]) -> None:
    assert {part for _, part, _ in parts_of(package)} == set(allowed)
    for path, part, imported in parts_of(package):
        assert imported <= allowed[part] | {part}, path


def test_every_folder_of_modules_is_a_package() -> None:
    """Otherwise it is not in the wheel."""
    for name in ("bpgrad", "experiments"):
        folders = {path.parent for path in (ROOT / name).rglob("*.py")}
        assert {f for f in folders if not (f / "__init__.py").is_file()} == set()


def test_the_library_does_not_know_the_experiments() -> None:
    for path in (ROOT / "bpgrad").rglob("*.py"):
        assert not [name for name in imports_of(path) if name.startswith("experiments")], path


def test_the_engine_is_handed_claims_and_studies() -> None:
    """Not even by a name that it imports when it needs it."""
    for path in (ROOT / "experiments" / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"experiments\.(claims|studies|findings)", node.value), path


def test_the_scripts_find_what_they_import_from_any_folder(tmp_path: Path) -> None:
    scripts = sorted(map(str, (ROOT / "scripts").glob("*.py")))
    assert len(scripts) > 5
    folders = {"experiments", "scripts"}
    path = subprocess.run(
        [sys.executable, "-c", r"import sys; print(*sys.path, sep='\n', end='')"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": ""},
    ).stdout.split("\n")  # fmt: skip

    def run_all() -> None:
        os.chdir(tmp_path)
        for script in scripts:
            sys.path[:] = path
            for name in [name for name in sys.modules if name.partition(".")[0] in folders]:
                del sys.modules[name]  # of the script before
            runpy.run_path(script)

    status, said = forked(run_all)
    assert status == 0, said


def test_the_experiments_are_found_from_any_folder(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "experiments", "list"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    named = {line.split()[0] for line in ran.stdout.splitlines()}
    assert named == {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    assert not list(tmp_path.iterdir())


def test_a_missing_data_set_ends_the_benchmark_before_it_starts_a_process(tmp_path: Path) -> None:
    from bpgrad.errors import DataError
    from scripts.bench_loop import bench

    with pytest.raises(DataError, match="mnist"):
        bench("mnist", 1, 1, [f"data_root={tmp_path}", "threads=1"])


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("figur7", "error: unknown figur7: did you mean figure7? choices: list, "),
        ("reprot", "error: unknown reprot: did you mean report? "),
    ],
)
def test_a_mistyped_experiment_is_one_line(typed: str, line: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "experiments", typed],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith(line)
    assert ran.stderr.count("\n") == 1


def test_the_main_path_can_be_read_in_one_sitting() -> None:
    path = ("run.py", "bpgrad/training/trainer.py", "bpgrad/tasks/classification.py")
    lines = {p: len((ROOT / p).read_text().splitlines()) for p in (*path, "bpgrad/optim/bpgrad.py")}
    assert lines["run.py"] < 60
    assert sum(lines.values()) < 900, lines
    for name in lines:
        assert name in README


def _variables(path: Path) -> set[str]:
    """The environment variables that a module reads or sets by their names."""
    tree = ast.parse(path.read_text())
    constants = {
        node.targets[0].id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    found = set()
    for node in ast.walk(tree):
        names: list[ast.expr] = []
        match node:
            case ast.Call(func=ast.Attribute(value=environ, attr="get" | "setdefault" | "pop")):
                names = node.args[:1] if ast.unparse(environ) == "os.environ" else []
            case ast.Call(func=ast.Attribute(attr="getenv")):
                names = node.args[:1]
            case ast.Subscript(value=environ):
                names = [node.slice] if ast.unparse(environ) == "os.environ" else []
            case ast.Compare(comparators=[environ]) if ast.unparse(environ) == "os.environ":
                names = [node.left]
        for name in names:
            if isinstance(name, ast.Constant):
                found.add(str(name.value))
            elif isinstance(name, ast.Name):
                found.add(str(constants.get(name.id, "")))
    return found - {""}


def test_every_environment_variable_is_documented() -> None:
    read = set(re.findall(r"oc\.env:(\w+)", (ROOT / "configs/config.yaml").read_text()))
    for path in (
        ROOT / "run.py",
        *(ROOT / "bpgrad").rglob("*.py"),
        *(ROOT / "scripts").glob("*.py"),
    ):
        read |= _variables(path)
    for path in (ROOT / "experiments").rglob("*.py"):
        read |= _variables(path)
    told = (ROOT / "docs/design.md").read_text().partition("**Environment variables.**")[2]
    rows = re.findall(r"^\| (`[A-Z].*?) \|", told, flags=re.MULTILINE)
    assert {"BPGRAD_DATA", "BPGRAD_GIT_SHA", "RANK", "CC"} < read
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == read


def test_what_is_committed_is_small_and_says_nothing_of_the_workplace() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.exists():
            assert path.stat().st_size < 2**21, name
    for record in (ROOT / "results" / "runs").glob("*/*/*"):
        assert sum(f.stat().st_size for f in record.iterdir()) < 150_000, record
    home = os.path.expanduser("~") + "/"
    for record in (ROOT / "results" / "runs").rglob("meta.json"):
        assert home not in record.read_text()


def test_every_known_disagreement_has_its_entry() -> None:
    """Section 9 of the reference lists 29; none is skipped, and each says how it stands."""
    rows = re.findall(
        r"^\| (\d+) \|.*\| ([^|]+) \|$", (ROOT / "docs/fidelity.md").read_text(), flags=re.MULTILINE
    )
    assert [int(number) for number, _ in rows] == list(range(1, 30))
    for number, state in rows:
        assert re.match("settled|measured|open|later", state), number
