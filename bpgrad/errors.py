"""The errors a user can cause or meet: each message is one line that says what, where and how to mend.

Entry points print the message on stderr and exit with `exit_code`; everything else is a bug and
keeps its traceback.
"""


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


class Diverged(BPGradError):
    """The training objective became NaN or infinite."""

    exit_code = 3


class Interrupted(BPGradError):
    """A signal ended the run; it can be resumed by the same command."""

    exit_code = 130
