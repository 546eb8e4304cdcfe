"""A review as a table (CSV) that a spreadsheet reads and that can be taken up again."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, TypeVar

from CMBDetectorLib.candidate import Candidate, Location, PhaseEvidence
from CMBDetectorLib.errors import InputError, OutputError
from CMBDetectorLib.regions import SUB_REGIONS, Region, Side
from CMBDetectorLib.report.record import position_of
from CMBDetectorLib.report.table import (
    COLUMNS,
    NEXT_REGION,
    SIDE_PROBABILITY,
    SUB_REGION_PROBABILITY,
    millimeters,
    short,
)
from CMBDetectorLib.review import Finding, Review, Source, Spot, Verdict

Choice = TypeVar("Choice", bound=Enum)

MOVED_BOUNDARY, MOVED_NEXT_REGION = "moved_boundary_mm", "moved_next_region"
# Tables exported earlier lack these.
OPTIONAL = {NEXT_REGION, SUB_REGION_PROBABILITY, SIDE_PROBABILITY, MOVED_BOUNDARY, MOVED_NEXT_REGION}
FORMULA = tuple("=+-@\t\r")  # a spreadsheet would compute a cell that begins so; an apostrophe makes it text


@dataclass(frozen=True)
class ReviewColumn:
    """One column that a review adds to `table.COLUMNS`: its name, what it means, and how a cell is written."""

    name: str
    description: str
    cell: Callable[[Finding], str]


def _text(text: str) -> str:
    return f"'{text}" if text.startswith((*FORMULA, "'")) else text


def _moved(axis: int) -> Callable[[Finding], str]:
    return lambda finding: f"{finding.spot.position_ras_mm[axis]:.2f}" if finding.candidate and finding.spot else ""


def _moved_place(cell: Callable[[Location], str]) -> Callable[[Finding], str]:
    return lambda f: cell(f.spot.location) if f.candidate and f.spot and f.spot.location else ""


REVIEW_COLUMNS: tuple[ReviewColumn, ...] = (
    ReviewColumn("verdict", "undecided, accepted or rejected", lambda f: f.verdict.value),
    ReviewColumn("comment", "the reader's words", lambda f: _text(f.comment)),
    ReviewColumn("reader", "who gave the verdict", lambda f: _text(f.reader)),
    ReviewColumn("decided_at", "when; ISO 8601, with time zone", lambda f: f.decided_at),
    ReviewColumn("source", "who saw it first: detector or reader", lambda f: f.source.value),
    ReviewColumn("current", "no when the last run did not find it any more, else yes",
                 lambda f: "yes" if f.is_current else "no"),
    ReviewColumn("moved_r_mm", "where the reader put it, as r_mm; empty where it stayed", _moved(0)),
    ReviewColumn("moved_a_mm", "as a_mm", _moved(1)),
    ReviewColumn("moved_s_mm", "as s_mm", _moved(2)),
    ReviewColumn("moved_sub_region", "sub_region there", _moved_place(lambda place: place.sub_region_name)),
    ReviewColumn("moved_side", "side there", _moved_place(lambda place: place.side.value)),
    ReviewColumn(MOVED_BOUNDARY, "boundary_mm there", _moved_place(lambda place: millimeters(place.boundary_mm))),
    ReviewColumn(MOVED_NEXT_REGION, "next_region there",
                 _moved_place(lambda place: place.next_region.value if place.next_region else "")),
)  # fmt: skip

NAMES = (*(column.name for column in COLUMNS), *(column.name for column in REVIEW_COLUMNS))


def suggested_name(review: Review) -> str:
    """File name for the table of a case: ``sub-017_swi_microbleeds.csv``."""
    stem = re.sub(r"[^\w.-]+", "_", review.case).strip("._") or "case"
    return f"{stem}_microbleeds.csv"


def row_of(finding: Finding, review: Review) -> dict[str, str]:
    """Make the line of a finding. What the detector said stands in the columns of `table.COLUMNS`, unchanged.

    Where the detector found nothing, they hold what was measured at the reader's point.
    """
    seen = finding.candidate or Candidate(
        center_ras_mm=finding.position_ras_mm,
        diameter_mm=finding.diameter_mm,
        volume_mm3=finding.volume_mm3,
        probability=math.nan,
        location=finding.location,
        phase_evidence=finding.phase_evidence,
    )
    row = {column.name: column.cell(seen, review.record.provenance) for column in COLUMNS}
    row = {name: "" if cell == "nan" else cell for name, cell in row.items()}
    row |= {"number": finding.name, "id": finding.key, "threshold": f"{review.threshold:.3f}"}
    return row | {column.name: column.cell(finding) for column in REVIEW_COLUMNS}


def write_review(review: Review, path: Path) -> None:
    """Write one line per finding of `Review.reported`, as UTF-8 with decimal points.

    Raises
    ------
    OutputError
        It cannot be written; what stood at `path` before is whole.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, NAMES, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row_of(finding, review) for finding in review.reported())
    # Written beside its place and moved there in one step: a full disk leaves no half table.
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("x", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as problem:
        with suppress(OSError):
            draft.unlink()
        raise OutputError(
            f"{path} cannot be written: {problem.strerror}. Close it where it is open, or choose another place."
        ) from None


def read_review(path: Path, *, to: Review | None = None) -> list[Finding]:
    """Read such a table back, for `Review.restore`.

    Parameters
    ----------
    path : Path
        Written by `write_review`; a spreadsheet may have changed commas to semicolons.
    to : Review, optional
        The review that it is for: a table of another scan is refused.

    Raises
    ------
    InputError
        It cannot be read, is of another scan, or a cell is wrong; the message names line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise InputError(f"{path} cannot be opened: {problem.strerror}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a table in UTF-8. Save it as 'CSV UTF-8'.") from None
    head = text.partition("\n")[0]
    table = csv.DictReader(io.StringIO(text), delimiter=";" if head.count(";") > head.count(",") else ",")
    if missing := [name for name in NAMES if name not in OPTIONAL.union(table.fieldnames or [])]:
        raise InputError(f"{path.name} is not an exported review: it has no column '{missing[0]}'.")
    findings = []
    for row in table:
        if None in row or None in row.values():
            raise InputError(f"{path.name}, line {table.line_num}: it has more or fewer cells than the first line.")
        if to and row["swi_sha256"] != short(to.record.provenance.swi.sha256):
            here = PurePath(to.record.provenance.swi.path).name
            raise InputError(f"{path.name} is the review of another scan ({row['swi']}), not of {here}.")
        try:
            findings.append(_finding(row))
        except _WrongCellError as problem:
            raise InputError(f"{path.name}, line {table.line_num}: {problem}") from None
    if len({f.key for f in findings}) < len(findings):
        raise InputError(f"{path.name} names a finding twice (column 'id').")
    return findings


class _WrongCellError(ValueError):
    """A cell that cannot be understood; the message names column and value."""


def _finding(row: dict[str, str]) -> Finding:
    source = _choice(row, "source", Source)
    number = _cell(row, "number", lambda text: int(text.removeprefix("R")))
    candidate = _candidate(row, number) if row["probability"] else None
    moved = None
    if row["moved_r_mm"]:
        moved = Spot(
            position_ras_mm=_position(row, "moved_"),
            location=_location(row, "moved_"),
        )
    elif candidate is None:
        moved = Spot(
            position_ras_mm=_position(row),
            location=_location(row),
            diameter_mm=_number(row, "diameter_mm"),
            volume_mm3=_number(row, "volume_mm3"),
            phase_evidence=_choice(row, "phase_evidence", PhaseEvidence),
        )
    return Finding(
        key=row["id"],
        number=number,
        source=source,
        candidate=candidate,
        spot=moved,
        verdict=_choice(row, "verdict", Verdict),
        comment=_plain(row["comment"]),
        reader=_plain(row["reader"]),
        decided_at=row["decided_at"],
        is_current=row["current"] != "no",
    )


def _candidate(row: dict[str, str], number: int) -> Candidate:
    return Candidate(
        center_ras_mm=_position(row),
        diameter_mm=_number(row, "diameter_mm"),
        volume_mm3=_number(row, "volume_mm3"),
        probability=_number(row, "probability"),
        location=_location(row),
        phase_evidence=_choice(row, "phase_evidence", PhaseEvidence),
        exclusion=row["exclusion_reason"],
        number=number,
    )


def _position(row: dict[str, str], prefix: str = "") -> tuple[float, float, float]:
    try:
        return position_of([float(row[f"{prefix}{axis}_mm"]) for axis in "ras"])
    except ValueError:
        raise _WrongCellError(f"{prefix}r_mm, {prefix}a_mm and {prefix}s_mm are not three numbers.") from None


def _location(row: dict[str, str], prefix: str = "") -> Location | None:
    """Read a place; of a moved point the table tells no probabilities."""
    name, other = f"{prefix}sub_region", f"{prefix}{NEXT_REGION}"
    if not row[name]:
        return None
    label = {sub.name: sub.label for sub in SUB_REGIONS}.get(row[name])
    if label is None:
        raise _WrongCellError(f"the {name} is '{row[name]}', which is none.")
    return Location(
        sub_region=label,
        side=_choice(row, f"{prefix}side", Side),
        probability=_number(row, f"{prefix}region_probability"),
        boundary_mm=_number(row, f"{prefix}boundary_mm"),
        next_region=_choice(row, other, Region) if row.get(other) else None,
        sub_region_probability=_number(row, f"{prefix}{SUB_REGION_PROBABILITY}"),
        side_probability=_number(row, f"{prefix}{SIDE_PROBABILITY}"),
    )


def _number(row: dict[str, str], name: str) -> float:
    return _cell(row, name, lambda text: float(text) if text else math.nan) if name in row else math.nan


def _cell(row: dict[str, str], name: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(row[name])
    except ValueError:
        raise _WrongCellError(f"the {name} is '{row[name]}', not a number with a decimal point.") from None


def _choice(row: dict[str, str], name: str, kind: type[Choice]) -> Choice:
    try:
        return kind(row[name])
    except ValueError:
        allowed = ", ".join(choice.value for choice in kind)
        raise _WrongCellError(f"the {name} is '{row[name]}'; it can be {allowed}.") from None


def _plain(text: str) -> str:
    """Undo `_text`."""
    return text[1:] if text.startswith("'") and text[1:].startswith((*FORMULA, "'")) else text
