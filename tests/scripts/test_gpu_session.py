"""A session on a GPU machine, rehearsed on this one: the same script at the smallest size."""

import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
import torch

from scripts.merge_records import merge

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_session.sh"
UNPACK = """\
import sys
from pathlib import Path

here = Path(__file__).parent
text = "".join((here / "set" / name).read_text() for name in ("one", "other"))
made = Path(sys.argv[1]) / "made"
made.mkdir()
(made / "whole").write_text(text)
"""


def session(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_two_calls_of_a_session(tmp_path: Path) -> None:
    for half in ("one", "other"):
        (tmp_path / half / "set").mkdir(parents=True)
        (tmp_path / half / "set" / half).write_text(half)
        (tmp_path / half / "unpack.py").write_text(UNPACK)
    out, work = tmp_path / "out", tmp_path / "work"
    fixed = (
        *("--out", out, "--work", work, "--device", "cpu", "--scale", "smoke"),
        *("--unpack", "unpack.py", "--deadline", "3000", "quickstart --seeds 0 --set epochs=1"),
    )
    first = session(*fixed, "--data", tmp_path / "one")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "not whole yet" in first.stdout
    assert json.loads((out / "machine.json").read_text())["machine"]["device"] == "cpu"
    for name in ("probe", "bench"):
        assert json.loads((out / f"{name}.json").read_text())["parts"]
    runs = merge(sorted(out.glob("records.tar.gz.*")), tmp_path / "results" / "runs")[0]
    assert runs == 8
    for file in out.iterdir():
        file.unlink()

    second = session(*fixed, "--data", tmp_path / "other", "--only", "probe,bench,runs")
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("done before") == 2
    assert second.stdout.count("finished already") == runs
    assert (work / "data" / "made" / "whole").read_text() == "oneother"
    archive = b"".join(part.read_bytes() for part in sorted(out.glob("records.tar.gz.*")))
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        assert sum(name.endswith("result.json") for name in tar.getnames()) == runs


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "--out: say where"),
        (("--out",), "--out: needs a value"),
        (("--out", "x", "--device", "tpu"), "cuda or cpu"),
        (("--out", "x", "--only", "checks,nothing"), "nothing: unknown"),
        (("--out", "x", "--data", "nowhere"), "no such folder"),
        (("--out", "x", "--deadline", "soon"), "whole number"),
        (("--outt", "x"), "unknown"),
    ],
)
def test_bad_arguments_are_one_line(arguments: tuple[str, ...], why: str) -> None:
    ended = session(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert why in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_without_a_gpu_it_ends_at_once(tmp_path: Path) -> None:
    ended = session("--out", tmp_path / "out", "--work", tmp_path / "work")
    if not torch.cuda.is_available():
        assert ended.returncode == 2
        assert "device=cuda: no CUDA device is visible" in ended.stderr
