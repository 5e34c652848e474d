"""Where a run is looked for: where the user stands, then among the checkout's own records.

The checkout's are only read; what is trained is recorded where the user stands.
"""

from dataclasses import replace
from pathlib import Path

from bpgrad.errors import RecordError
from bpgrad.records.run_record import RunRecord
from bpgrad.training.config import CONFIG_DIR, Config, task_class
from bpgrad.training.identity import run_name
from bpgrad.world import World

SUITE_RECORDS = CONFIG_DIR.parent / "results" / "runs"
SUITE_CHECKPOINTS = CONFIG_DIR.parent / "checkpoints"


def record_of(cfg: Config, world: World) -> RunRecord:
    """Where a run is recorded: by the data that lies there, or has been downloaded now.

    Nothing is for a run that is done.
    """
    record = _record_of(cfg)
    if not cfg.download or (record.directory / "result.json").exists():
        return record
    world.from_main(lambda: task_class(cfg).fetch(Path(cfg.data_root)))
    return _record_of(cfg)


def _record_of(cfg: Config) -> RunRecord:
    return RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))


def here_or_in_suite(cfg: Config) -> Config:
    """The configuration, to be read from the suite's records where only those have the run.

    What has ended counts, with a result or because it diverged; a damaged record too, which is
    told where it is read.
    """
    root = Path(cfg.results_root)
    if cfg.rerun or root.resolve() == SUITE_RECORDS.resolve():
        return cfg
    name = run_name(cfg)
    if _is_over(root, name) or not _is_over(SUITE_RECORDS, name):
        return cfg
    return replace(cfg, results_root=str(SUITE_RECORDS))


def is_in_suite(cfg: Config) -> bool:
    """Whether the run is read from the suite's records, so that there is nothing to train."""
    return cfg.results_root == str(SUITE_RECORDS) and _is_over(SUITE_RECORDS, run_name(cfg))


def for_training(cfg: Config) -> Config:
    """The same for a single run: only a finished one, and not where `results_root` was given."""
    found = here_or_in_suite(cfg)
    finished = Path(found.results_root, run_name(found), "result.json").exists()
    return found if finished and cfg.results_root == Config.results_root else cfg


def _is_over(root: Path, name: str) -> bool:
    if (root / name / "result.json").exists():
        return True
    try:
        return "diverged" in RunRecord(root, root, name).meta()
    except RecordError:
        return True
