"""Charts of one or several evaluations: FROC, precision and recall, false positives per case (Kim et al., Figs. 9, 10).

Needs matplotlib, which the extra ``evaluation`` brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from CMBDetectorLib.errors import InputError

# Okabe and Ito: for every eye; gray beside them.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
REMEDY = "Install it with: pip install 'cmb-detector[evaluation]'"
MOST_FALSE_POSITIVES = 8.0  # per case, on the axis


def draw(reports: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the charts of reports (`cohort.evaluate`) by name into one picture.

    Raises
    ------
    InputError
        matplotlib is not installed.
    """
    figure = new_figure(13, 4.6)
    free_response, precision, per_case = figure.subplots(1, 3)
    for (name, report), color in zip(reports.items(), cycle(COLORS), strict=False):
        curve = report["froc"]
        free_response.step(
            [0.0, *(p["false_positives_per_case"] for p in curve)],
            [0.0, *(p["sensitivity"] or 0.0 for p in curve)],
            where="post", color=color, label=name,
        )  # fmt: skip
        point = report["at_threshold"]
        if point["sensitivity"] is not None:
            _cross(free_response, report, color)
        known = [p for p in curve if p["precision"] is not None and p["sensitivity"] is not None]
        precision.plot([p["sensitivity"] for p in known], [p["precision"] for p in known], color=color, label=name)
        counts = [case["false_positives"] for case in report["per_case"]]
        per_case.step(*_cumulative(counts), where="post", color=color, label=name)
    free_response.set(xlim=(0, MOST_FALSE_POSITIVES), ylim=(0, 1.02), xlabel="false positives per case",
                      ylabel="sensitivity", title="FROC; dot: threshold applied, 95 % interval")  # fmt: skip
    precision.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="sensitivity (recall)", ylabel="precision",
                  title="precision and recall")  # fmt: skip
    per_case.set(ylim=(0, 1.02), xlabel="false positives of a case", ylabel="share of cases with so many or fewer",
                 title="false positives at the threshold")  # fmt: skip
    per_case.xaxis.get_major_locator().set_params(integer=True)
    for axes in (free_response, precision, per_case):
        axes.grid(alpha=0.3)
    figure.legend(*per_case.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path)


def new_figure(width: float, height: float) -> Any:
    """Give an empty figure, sizes in inches; `InputError` where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("Charts need matplotlib. " + REMEDY) from None
    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def _cross(axes: Any, report: Mapping[str, Any], color: str) -> None:
    """Mark the threshold's operating point with its intervals."""
    point, intervals = report["at_threshold"], report["intervals"]
    x, y = point["false_positives_per_case"], point["sensitivity"]
    (left, right), (low, high) = intervals["false_positives_per_case"], intervals["sensitivity"]
    axes.errorbar(
        [x], [y], xerr=[[max(x - left, 0)], [max(right - x, 0)]], yerr=[[max(y - low, 0)], [max(high - y, 0)]],
        fmt="o", color=color, markersize=4, capsize=3,
    )  # fmt: skip


def _cumulative(counts: Sequence[int]) -> tuple[list[int], list[float]]:
    """Number, and share of cases with so many or fewer."""
    levels = list(range(max(counts, default=0) + 2))
    return levels, [sum(count <= level for count in counts) / max(len(counts), 1) for level in levels]
