"""``candidates.json``: everything a program needs to know of one run, down to the lowest probability kept."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from CMBDetectorLib import RESEARCH_USE
from CMBDetectorLib.candidate import Candidate
from CMBDetectorLib.request import FLOOR
from CMBDetectorLib.result import Result, pattern

FORMAT = "CMBDetector result 1"


def write_record(result: Result, path: Path) -> None:
    """Write all candidates of at least `FLOOR`, with settings, checksums and notices. Coordinates are RAS, mm."""
    record = {
        "format": FORMAT,
        "research_use": RESEARCH_USE,
        "coordinate_system": "RAS",
        "floor": FLOOR,
        "threshold": result.provenance.threshold,
        "counted": len(result.counted),
        "pattern": pattern(result.counted),
        "searched_ml": result.searched_ml,
        "notices": result.notices,
        "candidates": [_entry(c, c.probability >= result.provenance.threshold) for c in result.candidates],
        "provenance": asdict(result.provenance),
    }
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _entry(candidate: Candidate, is_reported: bool) -> dict[str, Any]:
    entry = asdict(candidate) | {"id": candidate.id, "reported": is_reported, "excluded": candidate.is_excluded}
    if place := candidate.location:
        entry["location"] |= {"region": place.region.value, "sub_region_name": place.sub_region_name}
        if math.isnan(place.boundary_mm):  # JSON has no NaN
            entry["location"]["boundary_mm"] = None
    return entry
