"""How long do the state, the verdicts and the report take with all planned runs recorded?

    python scripts/bench_report.py

Every planned run that has no record gets a copy of one that differs in the seed only, in a folder
of its own; nothing of it is evidence, and nothing is kept. Prints the seconds of each command, and
those of one that prints its help: what starting takes.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

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


def fill(root: Path) -> int:
    """Copy the committed records under ``root`` and make the missing ones; how many there are."""
    shutil.copytree(ROOT / "results", root)
    hashes: dict[tuple[str, int], dict[str, str]] = {}  # of the real records, by task and seed
    for path in sorted(root.glob("runs/*/*/seed*/meta.json")):
        meta = json.loads(path.read_text(encoding="utf-8"))
        seed = int(path.parent.name.removeprefix("seed").partition("-")[0])
        of_seed = {key: meta[key] for key in meta if key.endswith("_sha256")}
        hashes.setdefault((path.parts[-4], seed), {}).update(of_seed)
    for cfg in planned():
        there = _folder(root, cfg)
        if there.exists():
            continue
        alike = (_folder(root, replace(cfg, seed=seed)) for seed in range(9))
        if (donor := next((path for path in alike if path.exists()), None)) is not None:
            shutil.copytree(donor, there)
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


def seconds(folder: Path, command: list[str]) -> float:
    """Of a process, the median of some."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "experiments", *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Print a line a command."""
    with tempfile.TemporaryDirectory(prefix="bpgrad-bench-") as scratch:
        folder = Path(scratch)
        count = fill(folder / "results")
        size = sum(path.stat().st_size for path in folder.glob("results/runs/**/*.*"))
        print(f"{count} records, {size / 1e6:.1f} MB: {size / count * 1000 / 1e6:.0f} MB per 1,000")
        for command in COMMANDS:
            print(f"{' '.join(command):18} {seconds(folder, command):6.2f} s", flush=True)


if __name__ == "__main__":
    main()
