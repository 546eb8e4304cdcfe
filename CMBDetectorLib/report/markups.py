"""``candidates.mrk.json``: the reported candidates as a Slicer point list (markups schema 1.0)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from CMBDetectorLib.candidate import Candidate
from CMBDetectorLib.result import Result
from CMBDetectorLib.review import Finding

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
LIST_NAME = "CMB candidates"

# An open cross of fixed size in mm: its arms leave the inner 40 % free, so a lesion below 4.8 mm stays uncovered.
DISPLAY: dict[str, Any] = {
    "visibility": True,
    "opacity": 1.0,
    "color": [0.6, 0.6, 0.6],  # of unselected points: excluded candidates
    "selectedColor": [1.0, 0.85, 0.2],
    "propertiesLabelVisibility": False,
    "pointLabelsVisibility": True,
    "textScale": 2.5,
    "glyphType": "Cross2D",
    "useGlyphScale": False,
    "glyphSize": 12.0,
    "sliceProjection": False,
}


def write_markups(result: Result, path: Path) -> None:
    """Write one locked point per reported candidate, in RAS; excluded ones unselected and hidden until asked for."""
    markup = {
        "type": "Fiducial",
        "name": LIST_NAME,
        "coordinateSystem": "RAS",
        "coordinateUnits": "mm",
        "locked": True,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(result.reported),
        "controlPoints": [_point(candidate) for candidate in result.reported],
        "measurements": [],
        "display": DISPLAY,
    }
    text = json.dumps({"@schema": SCHEMA, "markups": [markup]}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _point(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": str(candidate.number),
        "label": candidate.label,
        "description": describe(candidate),
        "associatedNodeID": "",
        "position": [float(mm) for mm in candidate.center_ras_mm],
        "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "selected": not candidate.is_excluded,
        "locked": True,
        "visibility": not candidate.is_excluded,
        "positionStatus": "defined",
    }


def describe(found: Candidate | Finding) -> str:
    """Say place, size and phase in one line: ``R23A41S12: left frontal (lobar), 4.0 mm, phase paramagnetic``."""
    place = found.location
    where = f"{place.side.value} {place.sub_region_name} ({place.region_in_words})" if place else "no region"
    name = found.id if isinstance(found, Candidate) else found.key
    parts = [f"{name}: {where}"] + ([] if math.isnan(found.diameter_mm) else [f"{found.diameter_mm:.1f} mm"])
    evidence = found.phase_evidence.value
    parts.append(evidence if evidence.endswith("phase") else f"phase {evidence}")
    if isinstance(found, Finding) and found.is_moved:
        parts.append("moved by the reader")
    if found.exclusion:
        parts.append(f"excluded: {found.exclusion}")
    return ", ".join(parts)
