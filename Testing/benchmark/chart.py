"""The figures as docs/images/performance.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from Testing.benchmark.page import slope
from Testing.benchmark.pieces import LARGE, Figures

OURS, OTHERS = "#1f6f8b", "#b0b7bf"
LINES = {"finer voxels": ("o", "#1f6f8b"), "more slices": ("s", "#c8553d")}


def draw(figures: Figures, path: Path) -> None:
    """Draw ratios and growth."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (ratios, time, memory) = plt.subplots(
        1, 3, figsize=(11, 3.3), width_ratios=(1.3, 1, 1), layout="constrained"
    )
    _ratios(ratios, figures)
    _growth(time, figures["scaling"], "after_start_s", "time without start-up, s")
    _growth(memory, figures["scaling"], "peak_gb", "peak memory, GB")
    figure.savefig(path, dpi=160, format="png")
    plt.close(figure)


def _ratios(axes: Any, figures: Figures) -> None:
    nnunet, network = figures["nnunet"], next(iter(figures["networks"].values()))
    ours = {number_format: entry["after_start_s"] for number_format, entry in figures["searches"][LARGE].items()}
    ours_s = next(iter(ours.values()))
    rows = [
        *((f"ours, {number_format}", seconds / ours_s) for number_format, seconds in ours.items()),
        ("MONAI, our network**", network["monai"]["s"] / network["stage_s"]["detector"]),
        ("nnU-Net, fastest", nnunet["fastest_s"] / ours_s),
        ("nnU-Net, no mirroring*", nnunet["unmirrored_s"] / ours_s),
        ("nnU-Net, default*", nnunet["default_s"] / ours_s),
    ]
    names, values = zip(*reversed(rows), strict=True)
    bars = axes.barh(names, values, color=[OURS if name.startswith("ours") else OTHERS for name in names])
    axes.bar_label(bars, [f"{v:.0f}x" if v >= 10 else f"{v:.1f}x" for v in values], padding=3)
    axes.set_xscale("log")
    axes.set_xlim(0.5, max(values) * 3)
    axes.set_title("Time as multiple of ours\n(* extrapolated, ** stage detect alone)", fontsize=9)
    axes.set_xticks([1, 10, 100], ["1", "10", "100"])
    axes.minorticks_off()


def _growth(axes: Any, scaling: Figures, key: str, title: str) -> None:
    """One line per series, and dashed the line that it may not cross: linear growth from its smallest scan."""
    for name, scans in scaling.items():
        voxels, values = [scan["brain_voxels"] / 1e6 for scan in scans], [scan[key] for scan in scans]
        marker, color = LINES[name]
        axes.plot(voxels, values, marker=marker, color=color, label=f"{name}: as voxels^{slope(voxels, values):.2f}")
        axes.plot(voxels, [values[0] * v / voxels[0] for v in voxels], "--", color=color, alpha=0.5)
    axes.plot([], [], "--", color="gray", label="linear")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_xlabel("million voxels in the brain")
    axes.set_title(title, fontsize=9)
    axes.grid(True, which="both", alpha=0.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=axes.get_ylim()[1] * 2)  # room for the legend
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
