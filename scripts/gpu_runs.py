"""Runs on a machine that is lent for minutes: python scripts/gpu_runs.py COMMAND (gpu_session.sh).

    machine                         say what the machine has, or that it lacks a GPU
    train NAME... --work FOLDER     the runs of experiments and studies, until SIGTERM; a NAME may
                                    have options, "figure7 --seeds 1,2", or be a file of such lines
    pack FOLDER OUT                 the finished records as OUT/records.tar.gz.00, .01, ...

Runs that this checkout has a record of are left out: one that was made elsewhere has other bits.
Records and checkpoints are kept under the folder, where they shadow none.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `experiments`

from bpgrad.errors import BPGradError, Interrupted, RecordError
from bpgrad.records.run_record import RunRecord
from bpgrad.training.cli import run_command

PART = 15 * 2**20  # bytes
DATA = {
    "mnist": "MNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "imagenette": "imagenette2",
    "voc_detection": "VOCdevkit",
    "voc_segmentation": "VOCdevkit",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    machine = commands.add_parser("machine")
    machine.set_defaults(call=show_machine)
    trained = commands.add_parser("train")
    trained.set_defaults(call=train)
    trained.add_argument("names", nargs="+")
    trained.add_argument("--work", type=Path, required=True)
    trained.add_argument("--scale", default="paper")
    for command in (machine, trained):
        command.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    packed = commands.add_parser("pack")
    packed.set_defaults(call=lambda options: pack(options.work, options.out))
    packed.add_argument("work", type=Path)
    packed.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    options.call(options)


def show_machine(options: argparse.Namespace) -> None:
    """Print versions and machine; raises ConfigError where there is no GPU."""
    from bpgrad.records.provenance import describe_environment
    from bpgrad.world import choose_device

    device = choose_device(options.device)
    print(json.dumps(describe_environment(device=device, world_size=1), indent=2))


def train(options: argparse.Namespace) -> None:
    """Train what is missing of each name in turn; raises BPGradError if runs have failed."""
    from experiments.__main__ import SUITE
    from experiments.engine import declaration, runner, studies

    overrides = [
        f"device={options.device}",
        f"results_root={options.work / 'results' / 'runs'}",
        f"checkpoint_root={options.work / 'checkpoints'}",
    ]
    jobs = 0 if options.device == "cuda" else 2
    failed = 0
    for name, seeds, settings in map(_parsed, _lines(options.names)):
        own = [*overrides, *settings]
        try:
            declared = declaration.load(SUITE.folder / f"{name}.yaml")
            if isinstance(declared, declaration.Study):
                place = studies.place_of(declared, own)
                studies.run(SUITE.studies, declared, place, seeds, own, jobs)
                continue
            plan = runner.prepare(declared, seeds, options.scale, own)
            left = [(run, cfg) for run, cfg in plan.runs if not _left_out(str(run), cfg)]
            # One process and one thread, as on a GPU, also where this is rehearsed.
            from bpgrad.training.company import train_together

            failed += train_together([(str(run), cfg) for run, cfg in left], jobs)
        except Interrupted:
            raise
        except BPGradError as error:  # as a package that is missing: the others go on
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            failed += 1
    if failed:
        raise BPGradError(f"{failed} runs failed")


def _lines(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if Path(name).is_file():
            yield from filter(None, map(str.strip, Path(name).read_text().splitlines()))
        else:
            yield name


def _parsed(text: str) -> tuple[str, tuple[int, ...], list[str]]:
    """Name, seeds and settings of "figure7 --seeds 1,2 --set key=value"."""
    parser = argparse.ArgumentParser(prog="RUNS")
    parser.add_argument("name")
    parser.add_argument("--seeds", default="")
    parser.add_argument("--set", nargs="+", action="extend", default=[])
    found = parser.parse_args(shlex.split(text))
    return found.name, tuple(int(seed) for seed in found.seeds.split(",") if seed), found.set


def _left_out(label: str, cfg: Any) -> str:
    """Why a run is not done here, said; empty if it is."""
    from bpgrad.training.identity import run_name
    from bpgrad.training.lookup import SUITE_RECORDS

    why = ""
    needed = Path(cfg.data_root) / DATA.get(cfg.task["name"], "")
    if not needed.exists():
        why = f"{needed} has not been brought"
    elif RunRecord(SUITE_RECORDS, SUITE_RECORDS, run_name(cfg)).result() is not None:
        why = "recorded in the checkout already"
    if why:
        print(f"{label}: left out, {why}", flush=True)
    return why


def pack(work: Path, out: Path) -> None:
    """Write the records of all runs that have ended, checked, as an archive in parts."""
    root = work / "results"
    archive = io.BytesIO()
    count = 0
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=6) as tar:
        for folder in _ended(root / "runs"):
            tar.add(folder, arcname=str(folder.relative_to(root)))
            count += 1
        if (root / "studies").is_dir():
            tar.add(root / "studies", arcname="studies")
    content = archive.getbuffer()
    for old in out.glob("records.tar.gz.*"):
        old.unlink()
    for k, first in enumerate(range(0, len(content), PART)):
        (out / f"records.tar.gz.{k:02}").write_bytes(content[first : first + PART])
    print(f"{count} records, {len(content) / 2**20:.1f} MiB", flush=True)


def _ended(root: Path) -> Iterator[Path]:
    """The folders of runs that have finished or diverged; a damaged one is told and left out."""
    for meta in sorted(root.glob("[!.]*/*/seed*/meta.json")):
        record = RunRecord(root, root, str(meta.parent.relative_to(root)))
        try:
            if record.result() is not None or "diverged" in record.meta():
                record.read()
                yield meta.parent
        except RecordError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
