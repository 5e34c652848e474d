"""Resolve pyproject.toml into requirements.lock: make lock.

One file for Linux and macOS, Python 3.11 to 3.13, with hashes and without index addresses. The
bootstrap lock pins uv itself, which installs the other.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Built by `make lock`; install with --require-hashes.\n"


def compile_lock(*source: str, into: str, requirements: str | None = None) -> None:
    """Run uv's resolver and write its answer under our own header."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("uv")),
            *("pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
            *("--generate-hashes", "--no-header", "--no-annotate", "--upgrade"),
            *source,
        ],
        cwd=ROOT,
        input=requirements,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    (ROOT / into).write_text(HEADER + done.stdout)
    print(f"{into}: {done.stdout.count('==')} pins")


if __name__ == "__main__":
    compile_lock("pyproject.toml", "--extra", "suite", "--extra", "dev", into="requirements.lock")
    compile_lock("-", requirements="uv>=0.5\n", into="requirements-uv.lock")
