"""``candidates.json``: everything a program needs to know of one run, down to the lowest probability kept."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from CMBDetectorLib import RESEARCH_USE
from CMBDetectorLib.candidate import Candidate, Location, PhaseEvidence
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.regions import BY_LABEL, Region, Side
from CMBDetectorLib.request import FLOOR, Settings
from CMBDetectorLib.result import InputFile, Provenance, Record, pattern

FORMAT = "CMBDetector result 1"


def write_record(record: Record, path: Path) -> None:
    """Write all candidates of at least `FLOOR`, with settings, checksums and notices. Coordinates are RAS, mm."""
    provenance = record.provenance
    content = {
        "format": FORMAT,
        "research_use": RESEARCH_USE,
        "coordinate_system": "RAS",
        "floor": FLOOR,
        "threshold": provenance.threshold,
        "counted": len(record.counted),
        "pattern": pattern(record.counted),
        "searched_ml": record.searched_ml,
        "notices": record.notices,
        "candidates": [_entry(c, c.probability >= provenance.threshold) for c in record.candidates],
        "provenance": asdict(provenance),
    }
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote.

    Raises
    ------
    InputError
        The file is missing, unreadable or not such a record.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(f"{path} is of the format '{content['format']}', which this version cannot read.")
        return Record(
            candidates=tuple(candidate_of(entry) for entry in content["candidates"]),
            notices=tuple(content["notices"]),
            searched_ml=float(content["searched_ml"]),
            provenance=provenance_of(content["provenance"]),
        )
    except OSError as problem:
        raise InputError(f"{path} cannot be opened: {problem.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise InputError(f"{path} is not a result of CMBDetector, or is damaged: {problem!r}.") from None


def _entry(candidate: Candidate, is_reported: bool) -> dict[str, Any]:
    entry = entry_of(candidate) | {"id": candidate.id, "reported": is_reported, "excluded": candidate.is_excluded}
    if place := candidate.location:
        entry["location"] |= {"region": place.region.value, "sub_region_name": place.sub_region_name}
    return entry


def entry_of(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate as plain values that JSON knows; `candidate_of` reads them back."""
    return {
        "center_ras_mm": list(candidate.center_ras_mm),
        "diameter_mm": candidate.diameter_mm,
        "volume_mm3": candidate.volume_mm3,
        "probability": candidate.probability,
        "location": location_entry(candidate.location),
        "phase_evidence": candidate.phase_evidence.value,
        "exclusion": candidate.exclusion,
        "number": candidate.number,
    }


def candidate_of(entry: dict[str, Any]) -> Candidate:
    """Make the candidate that an entry describes; raises KeyError, TypeError or ValueError where it is not one."""
    return Candidate(
        center_ras_mm=position_of(entry["center_ras_mm"]),
        diameter_mm=float(entry["diameter_mm"]),
        volume_mm3=float(entry["volume_mm3"]),
        probability=float(entry["probability"]),
        location=location_of(entry["location"]),
        phase_evidence=PhaseEvidence(entry["phase_evidence"]),
        exclusion=str(entry["exclusion"]),
        number=int(entry["number"]),
    )


def location_entry(location: Location | None) -> dict[str, Any] | None:
    """Return a place as plain values; `location_of` reads them back."""
    if location is None:
        return None
    return {
        "sub_region": location.sub_region,
        "side": location.side.value,
        "probability": finite(location.probability),
        "boundary_mm": finite(location.boundary_mm),
        "next_region": location.next_region.value if location.next_region else None,
        "sub_region_probability": finite(location.sub_region_probability),
        "side_probability": finite(location.side_probability),
    }


def location_of(entry: dict[str, Any] | None) -> Location | None:
    """Make the place that an entry describes."""
    if entry is None:
        return None
    if entry["sub_region"] not in BY_LABEL:
        raise ValueError(f"there is no sub-region {entry['sub_region']}")
    return Location(
        sub_region=entry["sub_region"],
        side=Side(entry["side"]),
        probability=number_of(entry["probability"]),
        boundary_mm=number_of(entry["boundary_mm"]),
        # Older results lack these.
        next_region=Region(entry["next_region"]) if entry.get("next_region") else None,
        sub_region_probability=number_of(entry.get("sub_region_probability")),
        side_probability=number_of(entry.get("side_probability")),
    )


def position_of(entry: list[float]) -> tuple[float, float, float]:
    """Make a position of three finite numbers, mm."""
    r, a, s = (float(mm) for mm in entry)
    if not math.isfinite(r + a + s):
        raise ValueError("a position is not finite")
    return r, a, s


def provenance_of(entry: dict[str, Any]) -> Provenance:
    """Make the provenance that ``dataclasses.asdict`` took apart."""
    files = {name: InputFile(**entry[name]) if entry[name] else None for name in ("swi", "phase")}
    return Provenance(**(entry | files | {"settings": Settings(**entry["settings"])}))


def finite(number: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return None if math.isnan(number) else number


def number_of(value: float | None) -> float:
    """Undo `finite`."""
    return math.nan if value is None else float(value)
