"""The page of an evaluation: its figures and charts as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from CMBDetectorLib.evaluation.cohort import CHARTS, MEASURES
from CMBDetectorLib.evaluation.markdown import ends, number, percent, table
from CMBDetectorLib.evaluation.matching import PRIMARY_MM, STRICT_MM
from CMBDetectorLib.regions import Region

PAGE = "evaluation.md"
MOST_WORST = 5  # cases that are named


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
    cases, heads = _counted(report["cases"], "case"), _counted(len(report["heads"]), "head")
    left_out = "".join(f"\n\nLeft out: {name}. {why}" for name, why in report["left_out"].items())
    return (
        "# Microbleeds found in cases with truth\n\n"
        "Research use only; not clinically validated. The networks were trained on simulated lesions in simulated "
        "scans.\n\n"
        f"{cases} ({free} without microbleeds) of {heads} ({', '.join(report['heads'])}) with {report['lesions']} "
        f"microbleeds. A candidate counts when its center lies within {PRIMARY_MM:g} mm of a lesion's, one candidate "
        "per lesion; near a lesion too faint to count it counts neither way. Brackets: 95 % intervals from 2,000 "
        f"resamples of heads, then of cases in each; with few heads they are wide.{left_out}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _operating_points(report: Mapping[str, Any]) -> str:
    point, intervals = report["at_threshold"], report["intervals"]
    strict, before = report["at_threshold_within_3_mm"], report["at_threshold_before_anatomy"]
    rows = []
    for name, (words, is_share) in MEASURES.items():
        shown = percent if is_share else number
        low, high = intervals[name]
        interval = ends((low, high)) if is_share else f"[{number(low)}, {number(high)}]"
        rows.append([words, f"{shown(point[name])} {interval}", shown(strict[name]), shown(before[name])])
    titles = ["", f"within {PRIMARY_MM:g} mm", f"within {STRICT_MM:g} mm", "before exclusion"]
    chosen = report["chosen_on_these_cases"]
    return (
        f"## At the threshold of {point['threshold']:.2f}\n\n{table(titles, rows)}\n\n"
        f"On these cases {chosen['threshold']:.2f} would be the lowest threshold with at most half a false positive "
        f"per case, {number(chosen['false_positives_per_case'])}; sensitivity there is "
        f"{percent(chosen['sensitivity'])} %. A threshold belongs chosen on other cases than it is judged on."
    )


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
            f"{percent(counts['found'] / counts['of'])} {ends(counts['interval'])}",
        ]
        for group, counts in report["sensitivity"].items()
    ]
    return "## By kind of lesion\n\n" + table(["lesions", "found", "%"], rows) if rows else ""


def _false_positives(report: Mapping[str, Any]) -> str:
    protocols = []
    for protocol, counts in report["false_positives_by_protocol"].items():
        low, high = counts["per_case_interval"]
        protocols.append([
            protocol, str(counts["cases"]), str(counts["false_positives"]),
            f"{number(counts['false_positives'] / counts['cases'])} [{number(low)}, {number(high)}]",
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
    dice = [[region.value, number(report["dice"][region.value])] for region in Region]
    return (
        f"## Where\n\nOf the lesions found, the place named is right in\n\n{table(['', 'right'], rows)}\n\n"
        f"Overlap of the regions with the true ones:\n\n{table(['region', 'Dice'], dice)}"
    )


def _worst(report: Mapping[str, Any]) -> str:
    wrong = {row["case"]: row["false_positives"] + row["lesions"] - row["found"] for row in report["per_case"]}
    rows = sorted((row for row in report["per_case"] if wrong[row["case"]]), key=lambda row: -wrong[row["case"]])
    if not rows:
        return ""
    names = ("case", "head", "protocol", "lesions", "found", "false_positives")
    shown = [[str(row[name]) for name in names] for row in rows[:MOST_WORST]]
    return "## Cases with most mistakes\n\n" + table([name.replace("_", " ") for name in names], shown)
