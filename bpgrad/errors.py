"""The errors a user can cause or meet: one line each that says what, where and how to mend.

Entry points print the message on stderr and exit with `exit_code`; everything else is a bug and
keeps its traceback.
"""

import re
import signal


class BPGradError(Exception):
    """Base of all errors that are reported as one line without a traceback."""

    exit_code = 2


class ConfigError(BPGradError):
    """The configuration names something unknown or holds an impossible value."""


class DataError(BPGradError):
    """A data file is missing, truncated or corrupt, or could not be downloaded."""


class CheckpointError(BPGradError):
    """A checkpoint is truncated, corrupt or belongs to another run."""


class RecordError(BPGradError):
    """A run directory cannot be written or is in use by another process."""


class DamagedRecordError(RecordError):
    """A file of a run's record is not what was written: cut, changed, of another kind."""


class PeerLost(BPGradError):
    """Another process of a run that several train together has ended."""


class SolverError(BPGradError):
    """The optimizer, code from outside the suite, raised something in the middle of a run."""

    exit_code = 4


class WorkerError(BPGradError):
    """A process that reads data for a run has ended; the same command resumes it."""


class Diverged(BPGradError):
    """The training objective became NaN or infinite."""

    exit_code = 3

    @classmethod
    def at(cls, run: str, epoch: int, iteration: int, more: str = "") -> "Diverged":
        """The error of a run by its name, and where that happened."""
        return cls(
            f"{run} diverged: its objective stopped being finite at epoch {epoch}, "
            f"iteration {iteration}{more}"
        )


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; the same command resumes it.

    Not a BPGradError: like KeyboardInterrupt it ends a sweep too, instead of its current run only.
    """

    def __init__(self, signal_number: int, message: str = "") -> None:
        super().__init__(message or f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


# What code from outside may raise that is about it, and no wish of the user's to stop.
FOREIGN = (Exception, SystemExit, GeneratorExit)


def first_line(error: BaseException) -> str:
    """What a foreign error says, as one line without terminal escapes."""
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return f"exits with {error.code or 0}"
    try:
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or repr(error)
    except Exception:  # of a class of its own
        text = ""
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
