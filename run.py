"""Train one solver on one task: python run.py task=cifar10 solver=bpgrad (see --help)."""

import sys

from bpgrad.suite import missing

if line := missing("run.py", "hydra", "rich", "yaml"):
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.training.cli import run_command
from bpgrad.training.config import CONFIG_DIR, parse, register

failures: list[BPGradError] = []


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def main(composed: DictConfig) -> None:
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if composed.launcher == "slurm" and not sweep:
            raise ConfigError("launcher=slurm submits sweeps: add -m, or choose launcher=local")
        cfg = parse(composed)
        from bpgrad.training.trainer import train  # torch starts once the configuration is right

        train(cfg)
    except BPGradError as error:
        if composed.launcher == "slurm" and sweep:
            raise  # in a job of its own: the job has to fail
        if sweep:
            print(f"error: {error}", file=sys.stderr, flush=True)
        failures.append(error)  # raised past Hydra it would be reported twice; a sweep goes on


def command() -> None:
    register()
    failures.clear()
    try:
        main()
    except RuntimeError as error:
        if "srun" not in str(error):
            raise
        raise ConfigError("launcher=slurm: srun is not on the PATH; is this a cluster?") from error
    if failures:
        raise failures[-1]


if __name__ == "__main__":
    run_command(command)
