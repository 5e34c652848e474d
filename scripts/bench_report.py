"""How long do the state, the verdicts and the report take with all planned runs recorded?

    python scripts/bench_report.py

Every planned run that has no record gets a copy of one that differs in the seed only, in a folder
of its own; nothing of it is evidence, and nothing is kept. Prints the seconds of processor time of
each command, and how many of them go into importing modules.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `experiments`

from bpgrad.training.config import Config
from experiments.__main__ import SUITE
from experiments.engine import declaration, runner
from experiments.engine.declaration import Experiment

ROOT = Path(__file__).parents[1]
COMMANDS = (["--help"], ["status"], ["verdict"], ["figure7", "--dry-run"], ["report"])
REPEATS = 3


def planned() -> Iterator[Config]:
    """The runs of all experiments, some more than once."""
    for declared in declaration.load_all(SUITE.folder):
        if isinstance(declared, Experiment) and not declared.needs:
            for _, cfg in runner.prepare(declared).runs:
                yield cfg


def fill(root: Path, most: int | None = None) -> int:
    """Copy the committed records under ``root`` and make the missing ones; how many there are.

    Not more than ``most`` are made, if it is given.
    """
    shutil.copytree(ROOT / "results", root)
    hashes: dict[tuple[str, int], dict[str, str]] = {}  # of the real records, by task and seed
    for path in sorted(root.glob("runs/*/*/seed*/meta.json")):
        meta = json.loads(path.read_text(encoding="utf-8"))
        seed = int(path.parent.name.removeprefix("seed").partition("-")[0])
        of_seed = {key: meta[key] for key in meta if key.endswith("_sha256")}
        hashes.setdefault((path.parts[-4], seed), {}).update(of_seed)
    made = 0
    for cfg in planned():
        there = _folder(root, cfg)
        if there.exists() or made == most:
            continue
        alike = (_folder(root, replace(cfg, seed=seed)) for seed in range(9))
        if (donor := next((path for path in alike if path.exists()), None)) is not None:
            shutil.copytree(donor, there)
            made += 1
            meta = json.loads((there / "meta.json").read_text(encoding="utf-8"))
            meta |= hashes.get((cfg.task["name"], cfg.seed), {})
            (there / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            settings = yaml.safe_load((there / "config.yaml").read_text(encoding="utf-8"))
            (there / "config.yaml").write_text(
                yaml.safe_dump(settings | {"seed": cfg.seed}, sort_keys=False), encoding="utf-8"
            )
    return len(list(root.glob("runs/*/*/*/result.json")))


def _folder(root: Path, cfg: Config) -> Path:
    return root / "runs" / runner.record_of(cfg).name


def seconds(folder: Path, command: list[str]) -> tuple[float, float]:
    """Of a process and of its imports, the median of some."""
    taken = []
    for _ in range(REPEATS):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "experiments", *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        after = os.times()
        spent = sum(after[2:4]) - sum(before[2:4])  # user and system time of children
        imports = sum(int(each) for each in re.findall(r"^import time: +(\d+)", done.stderr, re.M))
        taken.append((spent, imports / 1e6))
    return sorted(taken)[REPEATS // 2]


def main() -> None:
    """Print a line a command."""
    with tempfile.TemporaryDirectory(prefix="bpgrad-bench-") as scratch:
        folder = Path(scratch)
        count = fill(folder / "results")
        size = sum(path.stat().st_size for path in folder.glob("results/runs/**/*.*"))
        print(f"{count} records, {size / 1e6:.1f} MB: {size / count * 1000 / 1e6:.0f} MB per 1,000")
        for command in COMMANDS:
            spent, imports = seconds(folder, command)
            words = f"{spent:6.2f} s, {imports:.2f} of them imports"
            print(f"{' '.join(command):18} {words}", flush=True)


if __name__ == "__main__":
    main()
