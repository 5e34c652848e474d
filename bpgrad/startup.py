"""What a command does before anything that takes time is imported: no import here but Python's own.

Entry points call `begin` first, in `if __name__ == "__main__":`.
"""

import os
import signal
import sys
from types import FrameType

EXIT_CODE = 128 + signal.SIGINT


def begin() -> None:
    """Let Ctrl-C end the process in one line while the rest is imported; open what is closed."""
    open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)


def open_streams() -> None:
    """Let a closed standard stream lead nowhere (some supervisors start programs so).

    Else the next file that is opened would be the standard output.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    if closed:
        while os.open(os.devnull, os.O_RDWR) <= 2:
            pass  # one more than needed stays open
    for name in closed:
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _quit(number: int, frame: FrameType | None) -> None:
    # No exception: thrown into a half-done import it comes out as anything. Nothing is open yet.
    os.write(2, b"error: interrupted\n")
    os._exit(EXIT_CODE)
