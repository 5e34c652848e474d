"""Run what computes as other processors would, and print what came of it: make test-portable.

A tolerance must hold for every BLAS kernel, vector width and number of threads, not for those of
one machine. Each setting runs the tests that compute, then rebuilds the report, whose tables,
figures and pages must be the committed ones byte for byte. All of it in a copy of the source
tree in which BPGrad's C kernel was not built.

    python scripts/test_portable.py                            all settings, some hours
    python scripts/test_portable.py --only Haswell,default,1   one of them; --only may be repeated
    python scripts/test_portable.py --tests tests/optim        other tests
    python scripts/test_portable.py --quick                    without the report, the slow tests
                                                               and those on the real data

A processor cannot imitate one that has more instructions than itself: such settings say so and are
left out. Exit code 1 if any setting failed.
"""

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

BLAS = ("Haswell", "Zen", "SkylakeX")  # OpenBLAS kernels, of NumPy and SciPy
VECTORS = ("default", "avx2", "avx512")  # of torch's own kernels; default: SSE
THREADS = (1, 2, 4)
Setting = tuple[str, str, int]

COMPUTES = (
    *("tests/optim", "tests/golden", "tests/models", "tests/data", "tests/tasks"),
    "tests/branch_prune",
    *(
        f"tests/training/test_{name}.py"
        for name in ("defaults", "generated_task", "numerics", "real_data", "resume", "trainer")
    ),
    "tests/training/test_world.py",
    *(f"tests/experiments/test_{name}.py" for name in ("ablation", "figure5", "trajectory")),
    "tests/experiments/test_studies_figures.py",
)

# What else a processor of that width makes of it: oneDNN, MKL, NumPy's own loops.
WIDTH = {
    "default": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "avx512": {},
}

# Every library is asked for a result, so that an instruction the processor lacks shows at once.
PROBE = """
import numpy, scipy.linalg, torch
a = numpy.random.default_rng(0).normal(size=(200, 200))
for dtype in ("float32", "float64"):
    b = a.astype(dtype)
    b @ b, scipy.linalg.qr(b), torch.from_numpy(b).exp().sum(), torch.from_numpy(b) @ b
"""
DISPATCHED = """
from numpy._core._multiarray_umath import __cpu_dispatch__
print(*__cpu_dispatch__)
"""


def environment(setting: Setting) -> dict[str, str]:
    """The variables that make this processor compute as another."""
    blas, vectors, threads = setting
    found = os.environ | WIDTH[vectors]
    found |= {"OPENBLAS_CORETYPE": blas, "ATEN_CPU_CAPABILITY": vectors}
    found |= {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    if vectors == "default":
        asked = [sys.executable, "-c", DISPATCHED]  # NumPy 2; NumPy 1 keeps its widest loops
        names = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        found["NPY_DISABLE_CPU_FEATURES"] = names.strip()
    return found


def copy_tree(into: Path) -> None:
    """What git knows of, as it lies there now: no compiled kernel, no caches, no data."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)


def run_tests(tree: Path, tests: list[str], setting: Setting, env: dict[str, str]) -> list[str]:
    """What failed, a line each; as many processes side by side as there are cores for."""
    processes = min(4, max(1, (os.cpu_count() or 1) // setting[2]))
    side_by_side = (f"-n{processes}", "--dist=loadfile", "--no-loadscope-reorder")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", *side_by_side, *tests],
        cwd=tree, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)$", done.stdout, flags=re.MULTILINE)
    if done.returncode and not failed:
        failed = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["pytest said nothing"]
    if failed:
        print(done.stdout, flush=True)
    return failed


def run_report(tree: Path, env: dict[str, str]) -> list[str]:
    """What differs of the report that is rebuilt from nothing but the records."""
    made = [tree / "results" / name for name in ("tables", "figures", "README.md", "index.html")]
    for path in made:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "report"],
        cwd=tree, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return (done.stderr or done.stdout).strip().splitlines()[-1:]
    names = {
        path.relative_to(root)
        for root in (ROOT, tree)
        for path in (root / "results").rglob("*")
        if path.is_file()
    }
    return [
        f"{name} differs"
        for name in sorted(names)
        if not (ROOT / name).is_file()
        or not (tree / name).is_file()
        or not filecmp.cmp(ROOT / name, tree / name, shallow=False)
    ]


def parse(text: str) -> Setting:
    """BLAS,VECTORS,THREADS as a setting."""
    blas, vectors, threads = text.split(",")
    if blas not in BLAS or vectors not in VECTORS or not threads.isdigit():
        raise ValueError(text)
    return blas, vectors, int(threads)


def main() -> int:
    """Run the settings one after another and print the table."""
    summary, _, description = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", type=parse, action="append", metavar="BLAS,VECTORS,THREADS")
    parser.add_argument("--tests", nargs="+", default=list(COMPUTES))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    tests = [*options.tests, *(("-m", "not slow and not realdata") if options.quick else ())]
    rows, failures = list[tuple[str, ...]](), list[str]()
    with tempfile.TemporaryDirectory(prefix="bpgrad-portable-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        for setting in options.only or product(BLAS, VECTORS, THREADS):
            began, env, name = time.monotonic(), environment(setting), ",".join(map(str, setting))
            probe = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True)
            if probe.returncode < 0:  # a signal: the instruction is not there
                rows.append((name, "not on this processor", "", ""))
                continue
            failed = run_tests(tree, tests, setting, env)
            differs = [] if options.quick else run_report(tree, env)
            failures += [f"{name}: {line}" for line in (*failed, *differs)]
            verdict = f"{len(failed)} failed" if failed else "passed"
            report = f"{len(differs)} differ" if differs else "the same"
            seconds = f"{time.monotonic() - began:.0f} s"
            rows.append((name, verdict, "" if options.quick else report, seconds))
            print(" ".join(rows[-1]), flush=True)
    print(f"\n{'setting':<22}{'tests':<24}{'report':<12}time")
    for row in rows:
        print(f"{row[0]:<22}{row[1]:<24}{row[2]:<12}{row[3]}")
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
