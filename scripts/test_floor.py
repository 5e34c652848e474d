"""Run the tests on the oldest versions that pyproject.toml admits: make test-floor.

    python scripts/test_floor.py                 the whole suite
    python scripts/test_floor.py tests/optim     any arguments of pytest

The environment is build/floor, made by uv and made again when pyproject.toml has changed. BPGrad
itself is the source tree's, C kernel included.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "floor"
PYTHON = "3.11"  # the oldest; later ones have no wheels of the oldest NumPy and SciPy

# Of the lock, which is of the newest versions.
NOT_HERE = ["tests/test_repository.py::test_what_is_installed_is_what_is_locked"]


def make_environment() -> Path:
    """The interpreter of the environment."""
    python, done = FOLDER / "bin" / "python", FOLDER / "pyproject.toml"
    wanted = (ROOT / "pyproject.toml").read_text()
    if not done.exists() or done.read_text() != wanted:
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", PYTHON, FOLDER], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
        oldest = ["--resolution", "lowest-direct", "--all-extras", "-r", "pyproject.toml"]
        subprocess.run([*install, *oldest], cwd=ROOT, check=True)
        done.write_text(wanted)
    return python


def main() -> int:
    """Make the environment, run pytest in it, return its exit code."""
    python = make_environment()
    left_out = [f"--deselect={name}" for name in NOT_HERE]
    return subprocess.run(
        [python, "-m", "pytest", "-m", "not install", *left_out, *sys.argv[1:]],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    ).returncode  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
