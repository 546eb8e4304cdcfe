"""A review as text (JSON) and back: with this text a scene keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from CMBDetectorLib import RESEARCH_USE
from CMBDetectorLib.candidate import PhaseEvidence
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.report.record import (
    candidate_of,
    entry_of,
    finite,
    location_entry,
    location_of,
    number_of,
    position_of,
    provenance_of,
)
from CMBDetectorLib.result import Record
from CMBDetectorLib.review import Finding, Review, Source, Spot, Verdict

FORMAT = "CMBDetector review 1"


def review_text(review: Review) -> str:
    """Write all of a review on one line: every finding, the threshold, and what the run was made with."""
    record = review.record
    content = {
        "format": FORMAT,
        "research_use": RESEARCH_USE,
        "coordinate_system": "RAS",
        "case": review.case,
        "threshold": review.threshold,
        "show_excluded": review.show_excluded,
        "searched_ml": record.searched_ml,
        "notices": record.notices,
        "provenance": asdict(record.provenance),
        "findings": [_entry(finding) for finding in review.findings],
    }
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def review_of(text: str) -> Review:
    """Read what `review_text` wrote; raises `InputError` where it is something else."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise InputError(f"The review is of the format '{content['format']}', which this version cannot read.")
        findings = [_finding(entry) for entry in content["findings"]]
        candidates = [f.candidate for f in findings if f.candidate and f.is_current]
        record = Record(
            candidates=tuple(sorted(candidates, key=lambda candidate: candidate.number)),
            notices=tuple(content["notices"]),
            searched_ml=float(content["searched_ml"]),
            provenance=provenance_of(content["provenance"]),
        )
        return Review(
            content["case"],
            record,
            findings,
            threshold=content["threshold"],
            show_excluded=content["show_excluded"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise InputError(f"The review is damaged: {problem!r}.") from None


def _entry(finding: Finding) -> dict[str, Any]:
    return {
        "key": finding.key,
        "number": finding.number,
        "source": finding.source.value,
        "verdict": finding.verdict.value,
        "comment": finding.comment,
        "reader": finding.reader,
        "decided_at": finding.decided_at,
        "is_current": finding.is_current,
        "candidate": entry_of(finding.candidate) if finding.candidate else None,
        "spot": _spot_entry(finding.spot) if finding.spot else None,
    }


def _finding(entry: dict[str, Any]) -> Finding:
    return Finding(
        key=entry["key"],
        number=entry["number"],
        source=Source(entry["source"]),
        verdict=Verdict(entry["verdict"]),
        comment=entry["comment"],
        reader=entry["reader"],
        decided_at=entry["decided_at"],
        is_current=entry["is_current"],
        candidate=candidate_of(entry["candidate"]) if entry["candidate"] else None,
        spot=_spot(entry["spot"]) if entry["spot"] else None,
    )


def _spot_entry(spot: Spot) -> dict[str, Any]:
    return {
        "position_ras_mm": list(spot.position_ras_mm),
        "location": location_entry(spot.location),
        "diameter_mm": finite(spot.diameter_mm),
        "volume_mm3": finite(spot.volume_mm3),
        "phase_evidence": spot.phase_evidence.value,
    }


def _spot(entry: dict[str, Any]) -> Spot:
    return Spot(
        position_ras_mm=position_of(entry["position_ras_mm"]),
        location=location_of(entry["location"]),
        diameter_mm=number_of(entry["diameter_mm"]),
        volume_mm3=number_of(entry["volume_mm3"]),
        phase_evidence=PhaseEvidence(entry["phase_evidence"]),
    )
