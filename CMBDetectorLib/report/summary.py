"""The result in plain words: counts per region, distribution pattern, and what to keep in mind."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from CMBDetectorLib import RESEARCH_USE
from CMBDetectorLib.candidate import Location
from CMBDetectorLib.regions import SUB_REGIONS, Region
from CMBDetectorLib.result import Located, Result, pattern

NONE_FOUND = "Finding none is not evidence of absence: small or faint microbleeds can be missed."
NOT_REVIEWED = "No reader has reviewed these candidates yet."
COLUMNS_WIDE = 100  # of text, so that it prints and mails without breaking


def count_bin(count: int) -> str:
    """Name the usual bin of a microbleed count: 0, 1, 2-4, 5-9 or >= 10.

    >>> [count_bin(n) for n in (0, 1, 4, 5, 12)]
    ['0', '1', '2-4', '5-9', '>= 10']
    """
    if count < 2:
        return str(count)
    if count < 5:
        return "2-4"
    return "5-9" if count < 10 else ">= 10"


def excluded_note(result: Result) -> str:
    """Say how many candidates anatomy excluded and why; empty when there are none."""
    reasons = Counter(c.exclusion for c in result.reported if c.is_excluded)
    return "; ".join(f"{count} {reason}" for reason, count in reasons.items())


def summary_lines(result: Result) -> list[str]:
    """Sum the result up in lines of at most 100 characters.

    Counts are of counted candidates; those that anatomy excluded stand apart. The bins and regions follow the
    Microbleed Anatomical Rating Scale (Gregoire et al., Neurology 2009).
    """
    made = result.provenance
    counted = result.counted
    lines = [
        f"CMBDetector {made.version}, {made.finished_at}",
        f"SWI: {PurePath(made.swi.path).name}",
        f"Phase: {made.phase_in_words}",
        f"Searched: {result.searched_ml:.0f} ml of brain, candidates with a probability of {made.threshold:g} or more",
        "",
        f"Candidates counted: {len(counted)} (bin {count_bin(len(counted))})",
    ]
    lines += [*region_lines(counted), f"Pattern: {pattern(counted)}"]
    lines += unsure_lines({str(c.number): c.location for c in counted})
    if excluded := excluded_note(result):
        lines.append(f"Excluded by anatomy, not counted: {excluded}")
    lines += ["", NOT_REVIEWED if result.reported else NONE_FOUND]
    if result.reported and not counted:
        lines.append(NONE_FOUND)
    if result.reported:
        echo_time = result.swi.acquisition.echo_time_ms if result.swi.acquisition else None
        lines.append(
            "Diameters are apparent ones on SWI: they grow with the echo time "
            f"({f'{echo_time:g} ms' if echo_time else 'not known'} here) and the slice thickness "
            f"({max(result.swi.spacing_mm):.1f} mm here). Compare sizes only between equal protocols."
        )
    if made.polarity == "none":
        lines.append("Without phase, calcifications cannot be told from microbleeds.")
    lines += [f"Note: {notice}" for notice in result.notices]
    lines += ["", RESEARCH_USE]
    return wrapped(lines)


def region_lines(counted: Sequence[Located]) -> list[str]:
    """Count per region and, indented, per MARS region that has any."""
    lines = []
    for region in Region:
        places = [c.location for c in counted if c.location and c.location.region is region]
        lines.append(f"  {region.value:<15}{len(places):>3}")
        names = Counter(place.sub_region_name for place in places)
        lines += [f"    {sub.name:<39}{names[sub.name]:>3}" for sub in SUB_REGIONS if names[sub.name]]
    if unplaced := sum(c.location is None for c in counted):
        lines.append(f"  {'no region':<15}{unplaced:>3}")
    return lines


def unsure_lines(places: Mapping[str, Location | None]) -> list[str]:
    """Say which places, by name, lie at the border of two group regions; nothing where none does."""
    unsure = [f"{name} ({place.region_in_words})" for name, place in places.items() if place and place.or_region]
    return [f"At a border, so check region and pattern: {', '.join(unsure)}"] if unsure else []


def wrapped(lines: list[str]) -> list[str]:
    """Break lines at `COLUMNS_WIDE`."""
    return [part for line in lines for part in textwrap.wrap(line, COLUMNS_WIDE, subsequent_indent="  ") or [""]]
