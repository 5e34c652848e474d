"""Publish finished runs to Weights & Biases, and workspaces to look at them: make publish.

    python scripts/publish_wandb.py                     every experiment that the report shows
    python scripts/publish_wandb.py figure7 --workspace one of them, and its saved views
    python scripts/publish_wandb.py --mode offline      no account, no network: for `wandb sync`
    python scripts/publish_wandb.py --dry-run           only say what would be published

Every row, setting, checksum and final value goes, as one W&B run for each record and experiment,
in the group of the experiment (experiments/engine/publish.py). A second call sends nothing. It asks
the project what is there, so it may come from another machine; offline it looks only into
FOLDER/wandb, and a directory must be synced once: `wandb sync` on two machines doubles the rows.
With --workspace each task of an experiment gets a saved view (experiments/engine/workspace.py), in
place of its former state; offline the views are only validated.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `experiments`

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.records import wandb_mirror
from bpgrad.training.cli import run_command
from bpgrad.training.signatures import unknown
from experiments.__main__ import SUITE
from experiments.engine import declaration

if TYPE_CHECKING:
    from experiments.engine.publish import Publication
    from experiments.engine.runner import Plan


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    options = _parser().parse_args(arguments)
    from experiments.engine import publish

    plans = _plans(options.name, options.scale)
    found = [publication for plan in plans for publication in publish.publications(plan)]
    if not found:
        raise BPGradError(
            f"no finished run of {', '.join(plan.name for plan in plans)} is recorded, so there is "
            "nothing to publish; `python -m experiments status` shows what has been run"
        )
    if options.dry_run:
        for publication in found:
            print(
                f"{publication.id}  {publication.name}: {len(publication.epochs)} epochs, "
                f"{len(publication.iterations)} iterations"
            )
        return
    with tempfile.TemporaryDirectory() as scratch:
        _publish(options, plans, found, Path(scratch))


def _publish(
    options: argparse.Namespace, plans: list[Plan], found: list[Publication], scratch: Path
) -> None:
    from experiments.engine import publish

    entity, project = options.entity, options.project
    if options.mode == "offline":
        where = str(options.folder / "wandb")
        done = publish.publish_offline(found, entity, project, options.folder)
    else:
        wandb_mirror.prepare(scratch)
        api = _api()
        entity = entity or api.default_entity
        where = f"{entity}/{project}"
        done = publish.publish_online(api, found, entity, project, scratch)
    sent = 0
    for publication, now in done:
        sent += now
        print(f"{publication.id}  {'sent' if now else 'there already'}", flush=True)
    print(f"{where}: {sent} sent, {len(found) - sent} there already")
    if options.mode == "offline" and sent:
        print(f"upload with: wandb sync {shlex.quote(where)}/offline-run-*")
    if options.workspace:
        _workspaces(plans, entity, project, options.mode)


def _plans(names: Sequence[str], scale: str | None) -> list[Plan]:
    from experiments.engine import runner

    there = [e for e in declaration.load_all(SUITE.folder) if isinstance(e, declaration.Experiment)]
    for name in names:
        if name not in (known := [experiment.name for experiment in there]):
            if name in declaration.names(SUITE.folder):
                raise ConfigError(f"{name} is a study without training runs to publish")
            raise ConfigError(unknown(name, known))
    if names:
        chosen = [experiment for experiment in there if experiment.name in names]
    else:
        chosen = [experiment for experiment in there if experiment.report and not experiment.needs]
    return [runner.prepare(experiment, scale=scale) for experiment in chosen]


def _api() -> Any:
    """A ``wandb.Api``, if there are credentials and a server."""
    import wandb

    try:
        wandb_mirror.require_server()
        return wandb.Api()
    except Exception as error:
        raise BPGradError(
            f"W&B: {wandb_mirror.reason(error)} (--mode offline needs neither account nor network)"
        ) from error


def _workspaces(plans: Sequence[Plan], entity: str | None, project: str, mode: str) -> None:
    try:
        from experiments.engine import workspace
    except ImportError as error:
        raise ConfigError("--workspace: needs pip install wandb-workspaces") from error
    for plan in plans:
        for view in workspace.workspaces(plan, entity or "me", project):
            if mode == "online":
                print(f"workspace {view.name}: {workspace.save(view)}", flush=True)
            else:
                print(f"workspace {view.name}: valid", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", help="experiments (default: all that the report shows)")
    parser.add_argument("--project", default="bpgrad", help="W&B project (default: bpgrad)")
    parser.add_argument("--entity", help="user or team (default: the account's)")
    parser.add_argument("--mode", choices=["online", "offline"], default="online")
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="offline, write below FOLDER/wandb (default: .)"
    )
    parser.add_argument("--scale", choices=["smoke", "reduced", "paper"])
    parser.add_argument("--workspace", action="store_true", help="save the workspaces as well")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be published")
    return parser


if __name__ == "__main__":
    run_command(main)
