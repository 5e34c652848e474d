"""Draw the run of Figure 1 as an animation: docs/branch_prune.gif, from the committed record.

    python scripts/animate_branch_prune.py [target]

`make figure1` computes the run, where it is not recorded yet.
"""

import sys
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `experiments`

from bpgrad.records.files import write_atomically
from bpgrad.reporting.display import curves
from experiments.engine.studies import RESULTS
from experiments.studies import figure1

ROOT = Path(__file__).resolve().parents[1]
#: Milliseconds for which a frame stays: of one sample, and of the last.
SHORT, LONG = 120, 4000
COLORS = 64


def main(target: Path) -> None:
    """Write the animation, a frame for each sample; it runs for ever."""
    samples, coverings = figure1.read(ROOT / RESULTS / "studies" / "figure1")
    frames = [_frame(samples, coverings, n) for n in range(1, len(samples) + 1)]
    # One palette for all frames, so that colours do not flicker.
    palette = frames[-1].quantize(COLORS)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [SHORT] * (len(frames) - 1) + [LONG]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        target,
        lambda file: frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        ),
    )
    print(f"{target}: {len(frames)} frames, {target.stat().st_size / 1e6:.2f} MB")


def _frame(samples: pd.DataFrame, coverings: pd.DataFrame, n: int) -> Image.Image:
    row = samples.iloc[n - 1]
    with curves.settings():
        figure = Figure((8.0, 3.7), dpi=90, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        figure1.draw_balls(left, samples, n, row["rho"])
        left.set_title(f"ρ = {row['rho']:.2f}, {n} samples", loc="left")
        figure1.draw_bounds(right, samples, n)
        right.set_title(f"gap {row['f_min'] - row['lower_bound']:.3f}", loc="left")
        right.legend(loc="upper right", fontsize=9)
        data = BytesIO()
        figure.savefig(data, format="png", dpi=90)
    return Image.open(data).convert("RGB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "branch_prune.gif")
