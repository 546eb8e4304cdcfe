"""A review in plain words, to be copied into a report: accepted findings per region, and what is not yet decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from CMBDetectorLib import RESEARCH_USE
from CMBDetectorLib.regions import BY_LABEL, Region
from CMBDetectorLib.report.summary import NONE_FOUND, count_bin, region_lines, unsure_lines, wrapped
from CMBDetectorLib.result import pattern
from CMBDetectorLib.review import Finding, Marker, Review, Source, Verdict

CEREBELLUM = 2  # MARS label; the Boston criteria 2.0 treat it apart


def review_lines(review: Review) -> list[str]:
    """Sum a review up in lines of at most 100 characters.

    Counts are of accepted findings; those without a verdict stand apart. The bins and regions follow the Microbleed
    Anatomical Rating Scale (Gregoire et al., Neurology 2009).
    """
    made, accepted, reported = review.record.provenance, review.accepted(), review.reported()
    undecided = [f for f in reported if f.marker is Marker.UNDECIDED]
    rejected = [f for f in reported if f.verdict is Verdict.REJECTED]
    excluded = [f for f in reported if f.marker is Marker.EXCLUDED]
    added = [f for f in accepted if f.source is Source.READER]
    done, due = review.progress()
    lines = [
        f"Cerebral microbleeds in {review.case}",
        f"SWI: {PurePath(made.swi.path).name}",
        f"Phase: {made.phase_in_words}",
        f"Reviewed: {done} of {due}" + (f", by {', '.join(readers)}" if (readers := _readers(reported)) else ""),
        "",
        f"Microbleeds accepted: {len(accepted)} (bin {count_bin(len(accepted))})",
        *region_lines(accepted),
        f"Pattern: {pattern(accepted)}" + (" so far" if undecided else ""),
        *unsure_lines({f.name: f.location for f in accepted}),
    ]
    if any(f.location and f.location.sub_region == CEREBELLUM for f in accepted):
        lines.append(f"The {BY_LABEL[CEREBELLUM].name} counts as {Region.INFRATENTORIAL.value} here.")
    if added:
        lines.append(f"Of these, added by the reader: {len(added)}")
    lines.append("")
    if undecided:
        lines += [f"Not reviewed yet, not counted: {len(undecided)}", *region_lines(undecided)]
    lines.append(f"Rejected: {len(rejected)}")
    if excluded:
        lines.append(f"Excluded by anatomy, not counted: {len(excluded)}")
    if not accepted and not undecided:
        lines.append(NONE_FOUND)
    lines += [
        f"Candidates of CMBDetector {made.version} with a probability of {review.threshold:.2g} or more.",
        *(f"Note: {notice}" for notice in review.record.notices),
        "",
        RESEARCH_USE,
    ]
    return wrapped(lines)


def _readers(findings: Sequence[Finding]) -> list[str]:
    return sorted({f.reader for f in findings if f.reader})
