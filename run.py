"""Train one solver on one task: python run.py task=cifar10 solver=bpgrad (see --help)."""

from bpgrad.startup import begin
from bpgrad.suite import exit_without

if __name__ == "__main__":
    begin()
    exit_without("run.py", "hydra", "rich", "yaml")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bpgrad.errors import BPGradError
from bpgrad.training import lookup, slurm
from bpgrad.training.cli import run_command, tell
from bpgrad.training.config import CONFIG_DIR, parse, register
from bpgrad.training.sweep import shown_value, what_is_left, worst_value

failures: list[BPGradError] = []


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def main(composed: DictConfig) -> float:
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    on_slurm, value = composed.launcher == "slurm", float("inf")
    try:
        if on_slurm:
            slurm.enter(sweep)
        cfg = lookup.for_training(parse(composed))
        value = worst_value(cfg)
        from bpgrad.training.trainer import train  # torch starts once the configuration is right

        value = shown_value(cfg, train(cfg))
    except KeyboardInterrupt as error:
        raise (what_is_left(error) if sweep and not on_slurm else error) from None
    except BPGradError as error:
        if on_slurm and sweep:
            raise  # a job of its own has to fail
        if sweep:
            tell(str(error))
        failures.append(error)  # raised past Hydra it would be reported twice; a sweep goes on
    return value


def command() -> None:
    register()
    failures.clear()
    try:
        main()
    except RuntimeError as error:
        raise slurm.explained(error) or error from None
    if failures:
        raise failures[-1]


if __name__ == "__main__":
    run_command(command)
