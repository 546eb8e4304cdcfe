"""Reported candidates as rows: ``candidates.csv`` and the table of the command line."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

from CMBDetectorLib.candidate import Candidate, Location
from CMBDetectorLib.result import Provenance, Result

NEXT_REGION, SUB_REGION_PROBABILITY, SIDE_PROBABILITY = "next_region", "sub_region_probability", "side_probability"


@dataclass(frozen=True)
class Column:
    """One column of ``candidates.csv``: its name, what it means (with its unit), and how a cell is written."""

    name: str
    description: str
    cell: Callable[[Candidate, Provenance], str]


def _probability(value: float) -> str:
    """Format a probability of a place with two decimals; empty where there is none (NaN)."""
    return "" if math.isnan(value) else f"{value:.2f}"


def millimeters(value: float) -> str:
    """Format a length with one decimal; empty where there is none (NaN)."""
    return "" if math.isnan(value) else f"{value:.1f}"


def short(sha256: str) -> str:
    """Keep the first 12 digits of a checksum: enough to tell files apart."""
    return sha256[:12]


def _located(cell: Callable[[Location], str]) -> Callable[[Candidate, Provenance], str]:
    """Make a cell that is empty for candidates without a place in the brain."""
    return lambda candidate, _: cell(candidate.location) if candidate.location else ""


COLUMNS: tuple[Column, ...] = (
    Column("number", "1, 2, ... by falling probability; the number in the picture and in the markups",
           lambda c, _: str(c.number)),
    Column("id", "name made from the place (mm, rounded), unique within the result",
           lambda c, _: c.id),
    Column("r_mm", "center, mm to the patient's right (negative: left)", lambda c, _: f"{c.center_ras_mm[0]:.2f}"),
    Column("a_mm", "center, mm to the front (negative: back)", lambda c, _: f"{c.center_ras_mm[1]:.2f}"),
    Column("s_mm", "center, mm to the head (negative: feet)", lambda c, _: f"{c.center_ras_mm[2]:.2f}"),
    Column("probability", "the detector's score, 0-1; not calibrated to disease", lambda c, _: f"{c.probability:.3f}"),
    Column("diameter_mm", "apparent diameter on SWI, mm, blooming included; grows with echo time",
           lambda c, _: f"{c.diameter_mm:.1f}"),
    Column("volume_mm3", "volume darker than halfway to its darkest point, mm3; less than a ball of diameter_mm",
           lambda c, _: f"{c.volume_mm3:.1f}"),
    Column("region", "lobar, deep or infratentorial; empty when no brain tissue is near",
           _located(lambda place: place.region.value)),
    Column("sub_region", "region of the Microbleed Anatomical Rating Scale", _located(lambda p: p.sub_region_name)),
    Column("side", "left, right or midline, of the patient", _located(lambda place: place.side.value)),
    Column("region_probability", "share of the surrounding tissue that lies in the region, 0-1",
           _located(lambda place: _probability(place.probability))),
    Column(SUB_REGION_PROBABILITY, "share of the surrounding tissue that lies in the sub-region, 0-1",
           _located(lambda place: _probability(place.sub_region_probability))),
    Column(SIDE_PROBABILITY, "of the side, 0.5-1, by the segmenter; empty at the midline and at a reader's point",
           _located(lambda place: _probability(place.side_probability))),
    Column("boundary_mm", "distance to the nearest other region, mm; empty when none is near",
           _located(lambda place: millimeters(place.boundary_mm))),
    Column(NEXT_REGION, "which one that is; closer than 3 mm to it, region may be wrong",
           _located(lambda place: place.next_region.value if place.next_region else "")),
    Column("phase_evidence", "paramagnetic (as a microbleed), diamagnetic (as calcium), uncertain, or no phase",
           lambda c, _: c.phase_evidence.value),
    Column("excluded", "yes when anatomy excludes it from the counts, else no",
           lambda c, _: "yes" if c.is_excluded else "no"),
    Column("exclusion_reason", "why; empty when it counts", lambda c, _: c.exclusion),
    Column("swi", "file name of the SWI", lambda _, p: PurePath(p.swi.path).name),
    Column("swi_sha256", "checksum of its voxels and geometry, first 12 digits", lambda _, p: short(p.swi.sha256)),
    Column("phase", "file name of the phase; empty when there was none",
           lambda _, p: PurePath(p.phase.path).name if p.phase else ""),
    Column("phase_sha256", "checksum of its voxels and geometry, first 12 digits",
           lambda _, p: short(p.phase.sha256) if p.phase else ""),
    Column("threshold", "lowest probability that is reported, 0-1", lambda _, p: f"{p.threshold:.3f}"),
    Column("detector", "checksum of the detector's file, first 12 digits", lambda _, p: short(p.detector_sha256)),
    Column("segmenter", "checksum of the segmenter's file, first 12 digits", lambda _, p: short(p.segmenter_sha256)),
    Column("version", "of this software", lambda _, p: p.version),
    Column("finished_at", "ISO 8601, with time zone", lambda _, p: p.finished_at),
)  # fmt: skip


def write_table(result: Result, path: Path) -> None:
    """Write one line per reported candidate, excluded ones included, under the column names. UTF-8, decimal points."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.name for column in COLUMNS)
        for candidate in result.reported:
            writer.writerow(column.cell(candidate, result.provenance) for column in COLUMNS)


def format_table(result: Result) -> str:
    """Align the reported candidates as plain text for a terminal; an empty string when there are none."""
    if not result.reported:
        return ""
    rows = [("no.", "prob.", "region", "sub-region", "side", "mm", "phase", "place", "")]
    for c in result.reported:
        region, sub_region, side = (
            (c.location.region_in_words, c.location.sub_region_name, c.location.side.value)
            if c.location
            else ("outside", "", "")
        )
        excluded = f"excluded: {c.exclusion}" if c.is_excluded else ""
        rows.append((str(c.number), f"{c.probability:.2f}", region, sub_region, side, f"{c.diameter_mm:.1f}",
                     c.phase_evidence.value, c.id, excluded))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)  # fmt: skip
