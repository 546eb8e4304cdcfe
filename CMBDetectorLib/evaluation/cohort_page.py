"""The page of an evaluation: its figures and charts as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from CMBDetectorLib.evaluation.bootstrap import RESAMPLES
from CMBDetectorLib.evaluation.cohort import CHARTS
from CMBDetectorLib.evaluation.figures import ALLOWED_FALSE_POSITIVES, PROBABILITIES
from CMBDetectorLib.evaluation.markdown import number, percent, table
from CMBDetectorLib.evaluation.matching import PRIMARY_MM, STRICT_MM
from CMBDetectorLib.regions import Region

PAGE = "evaluation.md"
WORST = 5  # cases that are named
# Of an `OperatingPoint`: in words, and whether it is a share.
MEASURES = {
    "sensitivity": ("sensitivity, %", True), "precision": ("precision, %", True), "f1": ("F1, %", True),
    "sensitivity_per_case": ("sensitivity, % (mean of cases)", True),
    "precision_per_case": ("precision, % (mean of cases)", True), "f1_per_case": ("F1, % (mean of cases)", True),
    "false_positives_per_case": ("false positives per case", False),
    "false_positives_per_free_case": ("false positives per case without microbleeds", False),
}  # fmt: skip


def write_page(report: Mapping[str, Any], out: Path) -> Path:
    """Write ``evaluation.md`` beside the report of `cohort.evaluate`, with the charts that lie there."""
    parts = [
        _head(report),
        f"![FROC, precision and recall, false positives per case]({CHARTS})" if (out / CHARTS).exists() else "",
        _operating_points(report),
        _curve(report),
        _strata(report),
        _false_positives(report),
        _places(report),
        _worst(report),
    ]
    path = out / PAGE
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def _head(report: Mapping[str, Any]) -> str:
    free = sum(row["lesions"] == 0 for row in report["per_case"])
    cases, heads = _plural(report["cases"], "case"), _plural(len(report["heads"]), "head")
    searched = report["searched"]
    left_out = "".join(f"\n\nLeft out: {name}. {why}" for name, why in report["left_out"].items())
    return (
        "# Microbleeds found in cases with truth\n\n"
        "Research use only; not clinically validated. The bundled networks were trained on simulated lesions in "
        "simulated scans.\n\n"
        f"Searched: {', '.join(searched['folders'])}; {'SWI and phase' if searched['with_phase'] else 'SWI alone'}; "
        f"detector {searched['detector_sha256'][:12]}, segmenter {searched['segmenter_sha256'][:12]} (SHA-256).\n\n"
        f"{cases} ({free} without microbleeds) of {heads} ({', '.join(report['heads'])}) with {report['lesions']} "
        f"microbleeds. A candidate counts when its center lies within {PRIMARY_MM:g} mm of a lesion's, one candidate "
        f"per lesion; near a lesion too faint to count it counts neither way. Brackets: 95 % intervals from "
        f"{RESAMPLES:,} resamples of heads, then of cases in each, where they differ; with few heads they are wide."
        f"{left_out}"
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _operating_points(report: Mapping[str, Any]) -> str:
    point, intervals = report["at_threshold"], report["intervals"]
    strict, before = report["at_threshold_within_3_mm"], report["at_threshold_before_anatomy"]
    rows = []
    for name, (words, is_share) in MEASURES.items():
        shown = percent if is_share else number
        rows.append([words, shown(point[name]) + _bracket(intervals[name], shown), shown(strict[name]),
                     shown(before[name])])  # fmt: skip
    titles = ["", f"within {PRIMARY_MM:g} mm", f"within {STRICT_MM:g} mm", "before exclusion"]
    chosen = report["chosen_on_these_cases"]
    (usual, _), *others = Counter(row["threshold"] for row in report["per_case"]).most_common()
    also = ", ".join(f"{_plural(count, 'case')}: {threshold:.2f}" for threshold, count in others)
    return (
        f"## At the threshold of {usual:.2f}{f' ({also})' if also else ''}\n\n{table(titles, rows)}\n\n"
        f"On these cases {chosen['threshold']:.2f} would be the lowest threshold with at most "
        f"{ALLOWED_FALSE_POSITIVES:g} false positives per case, {number(chosen['false_positives_per_case'])}; "
        f"sensitivity there is {percent(chosen['sensitivity'])} %. Choose a threshold on other cases than it is judged "
        "on."
    )


def _bracket(interval: Sequence[float | None], shown: Callable[[float | None], str]) -> str:
    """Interval behind a figure; nothing where all resamples agree, as with one case."""
    low, high = interval
    return "" if low == high else f" [{shown(low)}, {shown(high)}]"


def _curve(report: Mapping[str, Any]) -> str:
    at = report["sensitivity_at_false_positives"]
    return "## Sensitivity (%) by false positives per case\n\n" + table(
        [*at], [[percent(value) for value in at.values()]]
    )


def _strata(report: Mapping[str, Any]) -> str:
    rows = [
        [
            group,
            f"{counts['found']} of {counts['of']}",
            percent(counts["found"] / counts["of"]) + _bracket(counts["interval"], percent),
        ]
        for group, counts in report["sensitivity"].items()
    ]
    return "## By kind of lesion\n\n" + table(["lesions", "found", "%"], rows) if rows else ""


def _false_positives(report: Mapping[str, Any]) -> str:
    protocols = []
    for protocol, counts in report["false_positives_by_protocol"].items():
        per_case = number(counts["false_positives"] / counts["cases"])
        protocols.append([
            protocol, str(counts["cases"]), str(counts["false_positives"]),
            per_case + _bracket(counts["per_case_interval"], number),
            f"{counts['false_positives_on_free']} in {counts['free_cases']}",
        ])  # fmt: skip
    titles = ["protocol", "cases", "false positives", "per case", "on cases without microbleeds"]
    mimics = [[kind, str(count)] for kind, count in report["false_positives_on"].items()]
    near = f"\n\n{table([f'within {PRIMARY_MM:g} mm', 'false positives'], mimics)}" if mimics else ""
    return f"## False positives\n\n{table(titles, protocols)}{near}"


def _places(report: Mapping[str, Any]) -> str:
    rows = [
        [name.replace("_", "-"), f"{counts['right']} of {counts['of']}"]
        for name, counts in report["location_right"].items()
    ]
    sure = report["location_right_by_probability"]
    by_probability = [
        [name, *(f"{sure[of][name]['right']} of {sure[of][name]['of']}" for of in sure)] for name in PROBABILITIES
    ]
    titles = ["probability", *(of.replace("_", "-") for of in sure)]
    dice = [[region.value, number(report["dice"][region.value])] for region in Region]
    return (
        f"## Where\n\nOf the lesions found, the place named is right in\n\n{table(['', 'right'], rows)}\n\n"
        f"and, by the probability that stands beside it (no side where midline is named), in\n\n"
        f"{table(titles, by_probability)}\n\n"
        f"Overlap of the regions with the true ones:\n\n{table(['region', 'Dice'], dice)}"
    )


def _worst(report: Mapping[str, Any]) -> str:
    wrong = {row["case"]: row["false_positives"] + row["lesions"] - row["found"] for row in report["per_case"]}
    rows = sorted((row for row in report["per_case"] if wrong[row["case"]]), key=lambda row: -wrong[row["case"]])
    if not rows:
        return ""
    names = ("case", "head", "protocol", "lesions", "found", "false_positives")
    shown = [[str(row[name]) for name in names] for row in rows[:WORST]]
    return "## Cases with most mistakes\n\n" + table([name.replace("_", " ") for name in names], shown)
