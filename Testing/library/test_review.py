from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from CMBDetectorLib.candidate import Candidate, Location, PhaseEvidence
from CMBDetectorLib.errors import InputError, OutputError
from CMBDetectorLib.measure import apparent_size, measure_spot, with_midline
from CMBDetectorLib.regions import Region, Side
from CMBDetectorLib.report import COLUMNS, write_result
from CMBDetectorLib.report.record import read_record
from CMBDetectorLib.report.review_record import review_of, review_text
from CMBDetectorLib.report.review_summary import review_lines
from CMBDetectorLib.report.review_table import NAMES, REVIEW_COLUMNS, read_review, suggested_name, write_review
from CMBDetectorLib.request import FLOOR
from CMBDetectorLib.resources import resources_dir
from CMBDetectorLib.result import Record, number
from CMBDetectorLib.review import MARKER_COLORS, SHORTCUTS, Finding, Marker, Review, Source, Spot, Verdict
from CMBDetectorLib.volume import Volume, read_volume
from Testing.synthetic_result import synthetic_result

ROOT = Path(__file__).resolve().parents[2]
FRONTAL = Location(sub_region=9, side=Side.LEFT, probability=0.8, boundary_mm=float("nan"))
CEREBELLAR = Location(sub_region=2, side=Side.MIDLINE, probability=1.0, boundary_mm=7.25)


@pytest.fixture
def record() -> Record:
    return synthetic_result()


@pytest.fixture
def review(record: Record) -> Review:
    """Three findings above the threshold (1, 2, 3), one excluded (4), one below the threshold (5)."""
    return Review("sub-017_swi", record)


def keys(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.key for finding in findings]


def numbers(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.name for finding in findings]


def another_run(record: Record, *, shifts_mm: dict[int, float], without: tuple[int, ...] = ()) -> Record:
    """The same scan searched again: candidates shifted to the right, some not found, all a little less probable."""
    found = [
        replace(
            c,
            center_ras_mm=(c.center_ras_mm[0] + shifts_mm.get(c.number, 0.0), *c.center_ras_mm[1:]),
            probability=c.probability - 0.01,
        )
        for c in record.candidates
        if c.number not in without
    ]
    return replace(record, candidates=number(found))


def candidate(r_mm: float, probability: float) -> Candidate:
    return Candidate(
        center_ras_mm=(r_mm, 0.0, 0.0),
        diameter_mm=4.0,
        volume_mm3=20.0,
        probability=probability,
        location=FRONTAL,
        phase_evidence=PhaseEvidence.UNCERTAIN,
    )


# What is shown


def test_a_review_begins_undecided_with_every_candidate_of_the_run(review: Review, record: Record) -> None:
    assert [f.candidate for f in review.findings] == list(record.candidates)
    assert {f.verdict for f in review.findings} == {Verdict.UNDECIDED}
    assert review.threshold == record.provenance.threshold
    assert review.progress() == (0, 3)


def test_findings_below_the_threshold_and_excluded_ones_are_hidden(review: Review) -> None:
    assert numbers(review.visible()) == ["1", "2", "3"]
    assert numbers(review.reported()) == ["1", "2", "3", "4"]
    review.show_excluded = True
    assert numbers(review.visible()) == ["1", "2", "3", "4"]
    assert review["R3P15S48"].marker is Marker.EXCLUDED
    assert review.progress() == (0, 3), "an excluded one needs no decision"


def test_the_threshold_filters_at_once_and_stays_above_what_was_kept(review: Review) -> None:
    review.threshold = 0.8
    assert numbers(review.visible()) == ["1", "2"]
    review.threshold = 0.0
    assert review.threshold == FLOOR
    assert numbers(review.visible()) == ["1", "2", "3", "5"]


def test_no_threshold_hides_what_a_reader_touched(review: Review) -> None:
    first, second, third = keys(review.visible())
    review.decide(first, Verdict.ACCEPTED)
    review.comment(second, "vein?")
    review.move(third, Spot(position_ras_mm=(0, 0, 0)))
    review.threshold = 1.0
    assert keys(review.visible()) == [first, second, third]


def test_an_excluded_finding_that_the_reader_accepts_counts(review: Review) -> None:
    review.decide("R3P15S48", Verdict.ACCEPTED)
    assert review["R3P15S48"].marker is Marker.ACCEPTED
    assert keys(review.accepted()) == ["R3P15S48"]
    assert "R3P15S48" in keys(review.visible())


def test_two_candidates_that_round_to_one_place_have_two_keys(record: Record) -> None:
    close = replace(record, candidates=number([candidate(10.1, 0.9), candidate(9.9, 0.8)]))
    assert keys(Review("case", close).findings) == ["R10A0S0", "R10A0S0-2"]


def test_labels_name_number_region_and_probability(review: Review) -> None:
    assert review.findings[0].label == "1 lobar 0.91"
    assert review.add(Spot(position_ras_mm=(1, 2, 3), location=CEREBELLAR)).label == "R1 infratentorial"


# From one to the next


def test_next_and_previous_go_around(review: Review) -> None:
    first, second, third = keys(review.visible())
    assert [review.next(key) for key in (None, first, third)] == [first, second, first]
    assert [review.previous(key) for key in (None, first, third)] == [third, third, second]


def test_next_follows_the_order_of_the_table(review: Review) -> None:
    first, second, third = keys(review.visible())
    assert review.next(third, [third, first, second]) == first
    review.decide(first, Verdict.REJECTED)
    assert review.next_undecided(third, [third, first, second]) == second


def test_after_the_last_undecided_one_comes_the_first(review: Review) -> None:
    first, second, third = keys(review.visible())
    assert review.next_undecided(third) == first
    review.decide(first, Verdict.ACCEPTED)
    assert review.next_undecided(third) == second
    review.decide(second, Verdict.ACCEPTED)
    assert review.next_undecided(second) == third
    review.decide(third, Verdict.REJECTED)
    assert review.next_undecided(third) is None
    assert review.progress() == (3, 3)


def test_nothing_shown_leads_nowhere(record: Record) -> None:
    empty = Review("case", replace(record, candidates=()))
    assert (empty.next(None), empty.previous(None), empty.next_undecided(None), empty.undo()) == (None,) * 4


# What a reader does


def test_a_verdict_names_reader_and_time_and_can_be_taken_back(review: Review) -> None:
    key = review.findings[0].key
    review.decide(key, Verdict.ACCEPTED, "AB", "2026-08-14T12:30:05+02:00")
    assert (review[key].reader, review[key].decided_at) == ("AB", "2026-08-14T12:30:05+02:00")
    review.decide(key, Verdict.UNDECIDED, "AB")
    assert (review[key].reader, review[key].decided_at) == ("", "")
    review.decide(key, Verdict.REJECTED, "AB")
    assert review[key].decided_at[10] == "T" and review[key].decided_at[-6] in "+-"


def test_nothing_a_reader_does_changes_what_the_detector_said(review: Review, record: Record) -> None:
    key = review.findings[0].key
    said = review[key].candidate
    review.decide(key, Verdict.REJECTED, "AB")
    review.comment(key, "vein")
    review.move(key, Spot(position_ras_mm=(1.0, 2.0, 3.0), location=CEREBELLAR, diameter_mm=9.0, volume_mm3=300.0))
    assert review[key].candidate is said and said is record.candidates[0]
    assert review[key].position_ras_mm == (1.0, 2.0, 3.0) and review[key].location == CEREBELLAR
    assert (review[key].diameter_mm, review[key].volume_mm3) == (4.0, said.volume_mm3)
    review.move(key, None)
    assert review[key].position_ras_mm == said.center_ras_mm and review[key].location == said.location


def test_an_added_microbleed_is_accepted_and_can_be_removed(review: Review) -> None:
    added = review.add(Spot(position_ras_mm=(1, 2, 3), location=FRONTAL, diameter_mm=3.5), "AB")
    assert (added.key, added.name, added.source, added.verdict) == ("reader-1", "R1", Source.READER, Verdict.ACCEPTED)
    assert review.add(Spot(position_ras_mm=(9, 9, 9))).key == "reader-2"
    assert numbers(review.visible()) == ["1", "2", "3", "R1", "R2"]
    review.remove("reader-1")
    assert numbers(review.visible()) == ["1", "2", "3", "R2"]


def test_what_the_detector_found_can_only_be_rejected(review: Review) -> None:
    with pytest.raises(ValueError, match="reject it"):
        review.remove(review.findings[0].key)


def test_every_action_can_be_undone_down_to_the_begin(review: Review) -> None:
    begin = review.findings
    first, second, third = keys(review.visible())
    review.decide(first, Verdict.ACCEPTED, "AB")
    review.comment(second, "vein")
    review.move(third, Spot(position_ras_mm=(1, 2, 3)))
    review.add(Spot(position_ras_mm=(4, 5, 6)))
    review.remove("reader-1")
    assert [review.undo() for _ in range(5)] == ["reader-1", "reader-1", third, second, first]
    assert review.findings == begin
    assert not review.can_undo and review.undo() is None


def test_a_removed_finding_comes_back_to_its_line(review: Review) -> None:
    review.add(Spot(position_ras_mm=(1, 2, 3)))
    review.add(Spot(position_ras_mm=(4, 5, 6)))
    before = keys(review.findings)
    review.remove("reader-1")
    review.undo()
    assert keys(review.findings) == before


def test_the_same_comment_again_is_no_step(review: Review) -> None:
    review.comment(review.findings[0].key, "")
    assert not review.can_undo


def test_a_finding_needs_a_place() -> None:
    with pytest.raises(ValueError, match="neither a candidate nor a spot"):
        Finding(key="x", number=1)


# Another run


def test_candidates_found_again_keep_key_verdict_comment_and_moved_point(review: Review, record: Record) -> None:
    first, second, third = keys(review.visible())
    review.decide(first, Verdict.ACCEPTED, "AB", "2026-08-14T12:30:05+02:00")
    review.comment(second, "vein?")
    spot = Spot(position_ras_mm=(1, 2, 3))
    review.move(third, spot)
    before = review[first]
    again = another_run(record, shifts_mm={1: 2.0, 2: -1.5, 3: 2.9})
    assert review.vanishing(again) == ()
    review.merge(again)
    assert keys(review.visible()) == [first, second, third]
    assert review[first] == replace(before, candidate=again.candidates[0])
    assert review[second].comment == "vein?" and review[third].spot == spot
    assert review[first].probability == pytest.approx(0.90)


def test_what_lies_further_away_is_another_lesion(review: Review, record: Record) -> None:
    first = review.findings[0].key
    review.decide(first, Verdict.ACCEPTED)
    again = another_run(record, shifts_mm={1: 3.1})
    assert keys(review.vanishing(again)) == [first]
    review.merge(again, keep_vanishing=False)
    assert first not in review
    assert review.progress() == (0, 3)


def test_each_candidate_is_found_again_once_the_nearest_first(record: Record) -> None:
    review = Review("case", replace(record, candidates=number([candidate(0.0, 0.9), candidate(4.0, 0.8)])))
    near, far = keys(review.findings)
    review.decide(near, Verdict.ACCEPTED)
    review.decide(far, Verdict.REJECTED)
    again = replace(record, candidates=number([candidate(2.5, 0.9)]))
    assert keys(review.vanishing(again)) == [near], "2.5 lies nearer to 4 than to 0"
    review.merge(again)
    assert {f.key: f.verdict for f in review.findings} == {far: Verdict.REJECTED, near: Verdict.ACCEPTED}
    assert not review[near].is_current and review[far].is_current


def test_decided_ones_that_vanish_are_told_and_kept_unless_the_reader_lets_them_go(
    review: Review, record: Record
) -> None:
    _, second, third = keys(review.visible())
    review.decide(second, Verdict.REJECTED)
    again = another_run(record, shifts_mm={}, without=(2, 3))
    assert keys(review.vanishing(again)) == [second], "the third was never touched"
    review.merge(again)
    assert second in review and third not in review
    assert len({f.name for f in review.findings}) == len(review.findings), "numbers stay unique"
    review.merge(another_run(record, shifts_mm={}))
    assert review[second].is_current and review[second].verdict is Verdict.REJECTED


def test_what_a_reader_added_survives_every_run_and_is_counted_once_when_the_detector_finds_it(
    review: Review, record: Record
) -> None:
    at = (record.candidates[1].center_ras_mm[0] + 1.0, *record.candidates[1].center_ras_mm[1:])
    without = another_run(record, shifts_mm={}, without=(2,))
    review.merge(without)
    added = review.add(Spot(position_ras_mm=at, location=FRONTAL), "AB")
    assert review.vanishing(record) == ()
    review.merge(record)
    assert review[added.key].candidate == record.candidates[1]
    assert review[added.key].position_ras_mm == at and review[added.key].verdict is Verdict.ACCEPTED
    assert len(review.findings) == len(record.candidates)
    review.merge(without)
    assert review[added.key] == added


def test_a_new_candidate_never_takes_the_key_of_an_old_finding(record: Record) -> None:
    review = Review("case", replace(record, candidates=number([candidate(0.0, 0.9)])))
    (old,) = keys(review.findings)
    review.merge(replace(record, candidates=number([candidate(2.9, 0.9)])))
    review.merge(replace(record, candidates=number([candidate(2.9, 0.9), candidate(0.0, 0.8)])))
    assert keys(review.findings) == [old, f"{old}-2"]


def test_a_run_keeps_the_threshold_and_ends_undo(review: Review, record: Record) -> None:
    review.threshold = 0.7
    review.decide(review.findings[0].key, Verdict.ACCEPTED)
    review.merge(record)
    assert review.threshold == 0.7 and not review.can_undo


# As text


@pytest.fixture
def worked_on(review: Review) -> Review:
    """A review with everything in it that a reader can do."""
    first, second, third = keys(review.visible())
    review.decide(first, Verdict.ACCEPTED, "Ä. B.", "2026-08-14T12:30:05+02:00")
    review.comment(first, 'two lines,\n"quoted"; =1+1')
    review.decide(second, Verdict.REJECTED, "-CD", "2026-08-14T12:31:05+02:00")
    review.comment(second, "=cmd()")
    review.move(third, Spot(position_ras_mm=(1.25, -2.5, 3.75), location=CEREBELLAR))
    review.add(
        Spot(
            position_ras_mm=(-5.5, 6.25, 7.0),
            location=FRONTAL,
            diameter_mm=3.5,
            volume_mm3=12.0,
            phase_evidence=PhaseEvidence.PARAMAGNETIC,
        ),
        "Ä. B.",
        "2026-08-14T12:32:05+02:00",
    )
    review.add(Spot(position_ras_mm=(90.0, 90.0, 90.0)))
    review.threshold = 0.6
    review.show_excluded = True
    return review


def test_text_keeps_all_of_a_review(worked_on: Review) -> None:
    text = review_text(worked_on)
    assert "\n" not in text
    again = review_of(text)
    assert review_text(again) == text
    assert repr(again.findings) == repr(worked_on.findings)  # by repr, as no NaN equals another
    assert (again.case, again.threshold, again.show_excluded) == ("sub-017_swi", 0.6, True)
    assert again.record.provenance == worked_on.record.provenance
    assert again.record.candidates == worked_on.record.candidates


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"format": "CMBDetector review 1"}', '{"format": "x 9"}'])
def test_other_text_is_no_review(text: str) -> None:
    with pytest.raises(InputError):
        review_of(text)


def test_a_result_folder_can_be_read_back(tmp_path: Path) -> None:
    result = synthetic_result()
    record = read_record(write_result(result, tmp_path / "out") / "candidates.json")
    assert type(record) is Record
    assert record.candidates == result.candidates
    assert record.provenance == result.provenance
    assert (record.notices, record.searched_ml) == (result.notices, result.searched_ml)


def test_what_is_no_record_is_refused_with_its_name(tmp_path: Path) -> None:
    for content in ("", "{}", '{"format": "CMBDetector result 1"}', '{"format": "other"}'):
        (tmp_path / "candidates.json").write_text(content)
        with pytest.raises(InputError, match=r"candidates\.json"):
            read_record(tmp_path / "candidates.json")
    with pytest.raises(InputError, match=r"missing\.json"):
        read_record(tmp_path / "missing.json")


# As a table


@pytest.fixture
def table(worked_on: Review, tmp_path: Path) -> Path:
    write_review(worked_on, tmp_path / "review.csv")
    return tmp_path / "review.csv"


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_columns_of_the_result_and_then_those_of_the_review(table: Path) -> None:
    assert tuple(rows(table)[0]) == NAMES == (*(c.name for c in COLUMNS), *(c.name for c in REVIEW_COLUMNS))
    assert {"verdict", "comment", "reader", "decided_at", "source"} <= {*NAMES}
    assert len({*NAMES}) == len(NAMES) and all(c.description for c in REVIEW_COLUMNS)


def test_the_table_says_what_the_detector_said_and_what_the_reader_says(table: Path, worked_on: Review) -> None:
    first, _, third, *_, added, far = rows(table)
    assert (first["verdict"], first["reader"]) == ("accepted", "Ä. B.")
    said = worked_on.record.candidates[2]
    assert float(third["r_mm"]) == pytest.approx(said.center_ras_mm[0], abs=0.01)
    assert (third["moved_r_mm"], third["moved_a_mm"], third["moved_s_mm"]) == ("1.25", "-2.50", "3.75")
    assert (third["sub_region"], third["moved_sub_region"]) == ("basal ganglia", "cerebellum")
    assert (added["number"], added["source"], added["probability"], added["region"]) == ("R1", "reader", "", "lobar")
    assert (added["r_mm"], added["diameter_mm"], added["moved_r_mm"]) == ("-5.50", "3.5", "")
    assert (far["region"], far["diameter_mm"]) == ("", "")
    assert "nan" not in table.read_text().lower()


def test_the_excluded_are_in_the_table_and_those_below_the_threshold_are_not(review: Review, tmp_path: Path) -> None:
    write_review(review, tmp_path / "review.csv")
    assert [row["number"] for row in rows(tmp_path / "review.csv")] == ["1", "2", "3", "4"]


def test_a_spreadsheet_computes_no_cell(table: Path) -> None:
    assert rows(table)[1]["comment"] == "'=cmd()" and rows(table)[1]["reader"] == "'-CD"


def test_a_table_restores_the_review_that_it_was_made_from(table: Path, worked_on: Review, record: Record) -> None:
    fresh = Review("sub-017_swi", record)
    assert fresh.restore(read_review(table, to=fresh)) == (5, 2)
    for finding in worked_on.reported():
        again = fresh[finding.key]
        assert (again.verdict, again.comment, again.reader, again.decided_at, again.source, again.name) == (
            finding.verdict, finding.comment, finding.reader, finding.decided_at, finding.source, finding.name,
        )  # fmt: skip
        assert again.position_ras_mm == pytest.approx(finding.position_ras_mm, abs=0.005)
        assert (again.location and again.location.sub_region) == (finding.location and finding.location.sub_region)
        assert again.candidate == finding.candidate, "what the detector said is not rounded by a table"
    fresh.undo()
    assert fresh.findings == Review("sub-017_swi", record).findings, "one step to undo"


def test_a_table_of_an_earlier_version_restores_its_review(table: Path, worked_on: Review) -> None:
    since = ("next_region", "moved_next_region", "moved_boundary_mm", "sub_region_probability", "side_probability")
    older = [{name: cell for name, cell in row.items() if name not in since} for row in rows(table)]
    with (table.parent / "older.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(older[0]))
        writer.writeheader()
        writer.writerows(older)
    known, found = read_review(table), read_review(table.parent / "older.csv")
    assert [(f.key, f.verdict, f.comment, f.position_ras_mm) for f in found] == [
        (f.key, f.verdict, f.comment, f.position_ras_mm) for f in known
    ]
    assert [f.candidate.location.or_region for f in known if f.candidate and f.candidate.location] == [
        None, None, Region.LOBAR,
    ]  # fmt: skip
    places = [f.candidate.location for f in found if f.candidate and f.candidate.location]
    assert not any(place.or_region for place in places)
    assert all(math.isnan(p.sub_region_probability) and math.isnan(p.side_probability) for p in places)


def test_a_table_keeps_how_probable_sub_region_and_side_are(table: Path) -> None:
    places = [f.candidate.location for f in read_review(table) if f.candidate and f.candidate.location]
    assert [p.sub_region_probability for p in places] == [0.71, 0.71, 0.55]
    assert [p.side_probability for p in places] == [0.98, 0.98, 0.98]


def test_a_point_moved_to_a_border_is_at_that_border_after_a_table(
    review: Review, record: Record, tmp_path: Path
) -> None:
    first = keys(review.visible())[0]
    there = replace(CEREBELLAR, boundary_mm=1.5, next_region=Region.DEEP)
    review.move(first, Spot(position_ras_mm=(1.25, -2.5, 3.75), location=there))
    write_review(review, tmp_path / "review.csv")
    fresh = Review("sub-017_swi", record)
    fresh.restore(read_review(tmp_path / "review.csv", to=fresh))
    place = fresh[first].location
    assert place and (place.region_in_words, place.boundary_mm) == ("infratentorial or deep", 1.5)


def test_a_wrong_next_region_is_told_with_its_line(table: Path) -> None:
    table.write_text(table.read_text(encoding="utf-8").replace(",1.4,lobar,", ",1.4,basal,"), encoding="utf-8")
    with pytest.raises(InputError, match="next_region is 'basal'"):
        read_review(table)


def test_a_result_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    file = write_result(synthetic_result(), tmp_path / "out") / "candidates.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for entry in content["candidates"]:
        for name in ("next_region", "sub_region_probability", "side_probability"):
            (entry["location"] or {}).pop(name, None)
    file.write_text(json.dumps(content), encoding="utf-8")
    places = [c.location for c in read_record(file).candidates if c.location]
    assert len(places) == 4 and not any(place.or_region for place in places)
    assert all(math.isnan(p.sub_region_probability) and math.isnan(p.side_probability) for p in places)


def test_a_summary_names_the_accepted_at_a_border_of_two_regions(review: Review) -> None:
    first, _, third = keys(review.visible())
    review.decide(first, Verdict.ACCEPTED)
    assert not [line for line in review_lines(review) if "border" in line]
    review.decide(third, Verdict.ACCEPTED)
    assert "At a border, so check region and pattern: 3 (deep or lobar)" in review_lines(review)


def test_restoring_what_is_there_changes_nothing(table: Path, worked_on: Review) -> None:
    before = repr(worked_on.findings)
    assert worked_on.restore(read_review(table)) == (5, 0)
    assert repr(worked_on.findings) == before


def test_a_table_restores_verdicts_onto_another_run(table: Path, record: Record) -> None:
    fresh = Review("case", another_run(record, shifts_mm={1: 2.0, 2: 2.0, 3: 2.0}))
    fresh.restore(read_review(table, to=fresh))
    assert [f.verdict.value for f in fresh.visible()[:3]] == ["accepted", "rejected", "undecided"]
    assert [f.name for f in fresh.findings].count("1") == 1


def test_a_candidate_of_a_run_that_is_not_this_one_is_added_as_not_current(table: Path, record: Record) -> None:
    fresh = Review("case", another_run(record, shifts_mm={}, without=(1,)))
    assert fresh.restore(read_review(table, to=fresh)) == (5, 3)
    (added,) = (f for f in fresh.findings if not f.is_current)
    assert (added.key, added.verdict) == (record.candidates[0].id, Verdict.ACCEPTED)
    assert len({f.name for f in fresh.findings}) == len(fresh.findings)


def test_the_added_microbleed_of_another_reader_does_not_replace_mine(table: Path, record: Record) -> None:
    mine = Review("case", record)
    mine.add(Spot(position_ras_mm=(50, 50, 50), location=FRONTAL), "me")
    mine.restore(read_review(table))
    added = [f for f in mine.findings if f.source is Source.READER]
    assert len(added) == 3 and len({f.key for f in added}) == 3 and len({f.name for f in added}) == 3
    assert mine["reader-1"].position_ras_mm == (50, 50, 50)


def test_a_table_of_another_scan_is_refused(table: Path, record: Record) -> None:
    made = record.provenance
    other = replace(record, provenance=replace(made, swi=replace(made.swi, sha256="ff" * 32)))
    with pytest.raises(InputError, match="another scan"):
        read_review(table, to=Review("other", other))


def test_a_table_that_a_spreadsheet_saved_with_semicolons_is_read(table: Path, tmp_path: Path) -> None:
    with (tmp_path / "excel.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, NAMES, delimiter=";")
        writer.writeheader()
        writer.writerows(rows(table))
    assert repr(read_review(tmp_path / "excel.csv")) == repr(read_review(table))


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("verdict", "maybe", "line 2: the verdict is 'maybe'; it can be undecided, accepted, rejected"),
        ("probability", "0,91", "line 2: the probability is '0,91', not a number with a decimal point"),
        ("r_mm", "", "line 2: r_mm, a_mm and s_mm are not three numbers"),
        ("sub_region", "frontal lobe", "line 2: the sub_region is 'frontal lobe', which is none"),
        ("number", "one", "line 2: the number is 'one'"),
        ("moved_r_mm", "nan", "line 2: moved_r_mm, moved_a_mm and moved_s_mm are not three numbers"),
    ],
)
def test_a_wrong_cell_is_named_by_line_and_column(
    review: Review, tmp_path: Path, column: str, cell: str, said: str
) -> None:
    write_review(review, tmp_path / "review.csv")
    changed = rows(tmp_path / "review.csv")
    changed[0][column] = cell
    with (tmp_path / "review.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, NAMES)
        writer.writeheader()
        writer.writerows(changed)
    with pytest.raises(InputError, match=said):
        read_review(tmp_path / "review.csv")


def test_a_table_that_is_no_review_is_refused(tmp_path: Path, table: Path) -> None:
    candidates = write_result(synthetic_result(), tmp_path / "out") / "candidates.csv"
    with pytest.raises(InputError, match="no column 'verdict'"):
        read_review(candidates)
    cut = tmp_path / "cut.csv"
    cut.write_text(table.read_text()[:-40])
    with pytest.raises(InputError, match="more or fewer cells"):
        read_review(cut)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_review(tmp_path / "binary.csv")


def test_a_failed_export_leaves_the_earlier_table_whole(
    worked_on: Review, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table.read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OutputError, match="No space left"):
        write_review(worked_on, table)
    assert table.read_bytes() == before and os.listdir(table.parent) == [table.name]


def test_an_export_to_a_folder_that_is_not_there_says_so(worked_on: Review, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_review(worked_on, tmp_path / "missing" / "review.csv")


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("sub-017_swi", "sub-017_swi_microbleeds.csv"),
        ("5: SWI/Images (mag)", "5_SWI_Images_mag_microbleeds.csv"),
        ("..", "case_microbleeds.csv"),
    ],
)
def test_the_suggested_file_name_comes_from_the_case(record: Record, case: str, name: str) -> None:
    assert suggested_name(Review(case, record)) == name


# As a summary


def test_the_summary_counts_what_was_accepted_and_shows_the_rest_apart(review: Review) -> None:
    first, second, third = keys(review.visible())
    review.decide(first, Verdict.ACCEPTED, "AB")
    review.add(Spot(position_ras_mm=(1, 2, 3), location=FRONTAL), "CD")
    review.decide(second, Verdict.REJECTED, "AB")
    text = "\n".join(review_lines(review))
    assert "Microbleeds accepted: 2 (bin 2-4)" in text
    assert "Reviewed: 3 of 4, by AB, CD" in text
    assert "Pattern: strictly lobar so far" in text
    assert "Of these, added by the reader: 1" in text
    assert "Not reviewed yet, not counted: 1" in text
    assert "Rejected: 1" in text and "Excluded by anatomy, not counted: 1" in text
    review.decide(third, Verdict.ACCEPTED, "AB")
    text = "\n".join(review_lines(review))
    assert "Pattern: mixed\n" in text and "Not reviewed" not in text


def test_the_region_that_counts_is_where_the_reader_put_the_point(review: Review) -> None:
    first = review.findings[0].key
    review.decide(first, Verdict.ACCEPTED)
    review.move(first, Spot(position_ras_mm=(0, -50, -30), location=CEREBELLAR))
    text = "\n".join(review_lines(review))
    assert "Pattern: deep or infratentorial only" in text and "The cerebellum counts as infratentorial here." in text


def test_the_summary_names_no_disease_and_says_that_it_is_for_research(review: Review, record: Record) -> None:
    for any_review in (review, Review("none", replace(record, candidates=()))):
        text = " ".join(" ".join(review_lines(any_review)).split())
        assert "Research use only" in text
        assert not {"amyloid", "angiopathy", "CAA", "ARIA"} & {*text.replace(",", " ").split()}
        assert all(len(line) <= 100 for line in review_lines(any_review))
    assert "Finding none is not evidence of absence" in text


# At a reader's point


def test_the_midline_is_found_on_labels_that_carry_no_side() -> None:
    result = synthetic_result(tilt_deg=17.0)
    regions = with_midline(result.regions)
    head_r_mm = 7.0  # where the synthetic head has its middle
    for side, r_mm in ((Side.LEFT, -8.0), (Side.RIGHT, 22.0)):
        spot = measure_spot((r_mm, -11.0, 23.0), swi=None, regions=regions)
        assert spot.location and spot.location.side is side, f"{r_mm - head_r_mm:g} mm from the middle"
        assert math.isnan(spot.location.side_probability), "the middle tells which side, not how probably"
    middle = result.regions.ras_of((48, 70, 10))
    spot = measure_spot((7.0, float(middle[1]), float(middle[2])), swi=None, regions=regions)
    assert spot.location and (spot.location.sub_region, spot.location.side) == (2, Side.MIDLINE)


def test_the_midline_follows_a_head_that_is_turned_in_the_scan() -> None:
    turn = np.deg2rad(15)
    to_head = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    grid = Volume(np.zeros((90, 100, 40), np.uint8), np.diag([2.0, 2.0, 3.0, 1.0]))
    center = grid.ras_of((np.array(grid.array.shape) - 1) / 2)
    head_mm = (grid.ras_of(np.moveaxis(np.indices(grid.array.shape), 0, -1)) - center) @ to_head
    regions = with_midline(grid.with_array((np.linalg.norm(head_mm / (60, 80, 50), axis=-1) < 1).astype(np.uint8) * 9))
    for r_mm, side in ((-4, Side.LEFT), (4, Side.RIGHT)):
        for a_mm in (-60, 60):
            r, a, s = center + to_head @ (r_mm, a_mm, 0)
            spot = measure_spot((float(r), float(a), float(s)), swi=None, regions=regions)
            assert spot.location and spot.location.side is side


def test_a_point_gets_size_from_the_image(record: Record) -> None:
    result = synthetic_result()
    for found in result.candidates[:3]:
        diameter_mm, volume_mm3 = apparent_size(np.add(found.center_ras_mm, 0.5), result.swi)
        assert diameter_mm == pytest.approx(found.diameter_mm, rel=0.65)
        assert volume_mm3 == pytest.approx(found.volume_mm3, rel=0.01)
    assert np.isnan(apparent_size((7.0, -11.0, 30.0), result.swi)).all(), "nothing dark there"


def test_on_the_sample_scan_a_readers_point_gets_the_place_and_size_of_the_truth() -> None:
    case = resources_dir() / "SampleData" / "simulated-3t"
    swi, mars = read_volume(case / "swi.nii.gz"), read_volume(case / "mars.nii.gz")
    regions = with_midline(mars.with_array(mars.array.astype(np.uint8)))
    for lesion in json.loads((case / "truth.json").read_text())["lesions"]:
        spot = measure_spot(tuple(lesion["center_ras_mm"]), swi=swi, regions=regions)
        assert spot.location and spot.location.sub_region == lesion["sub_region"]
        assert {spot.location.side.value, lesion["side"]} != {"left", "right"}, "never the other side"
        assert spot.diameter_mm == pytest.approx(lesion["diameter_mm"], rel=0.15)


def test_without_images_a_point_is_only_a_place() -> None:
    spot = measure_spot((1.0, 2.0, 3.0), swi=None, regions=None)
    assert repr(spot) == repr(Spot(position_ras_mm=(1.0, 2.0, 3.0)))
    empty = with_midline(Volume(np.zeros((20, 20, 20), np.uint8), np.eye(4)))
    assert measure_spot((1.0, 2.0, 3.0), swi=None, regions=empty).location is None


# Keys, colors, imports


def test_every_key_does_one_thing() -> None:
    assert len({s.key for s in SHORTCUTS}) == len({s.name for s in SHORTCUTS}) == len(SHORTCUTS)
    assert all(s.description and s.name.isidentifier() for s in SHORTCUTS)


# Machado et al. (2009), full deficiency, linear RGB.
VISION = {
    "usual": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(color: tuple[int, int, int], vision: str) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB color as seen with a kind of color vision."""
    srgb = np.array(color) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ seen / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_verdicts_are_told_apart_and_seen_on_gray_with_any_color_vision(vision: str) -> None:
    assert {*MARKER_COLORS} == {*Marker}
    for one, other in combinations(MARKER_COLORS, 2):
        distance = np.linalg.norm(lab(MARKER_COLORS[one], vision) - lab(MARKER_COLORS[other], vision))
        assert distance > 20, f"{one.value} and {other.value}: {distance:.0f}"
    for marker, color in MARKER_COLORS.items():
        for gray in (40, 80, 120, 160):
            distance = np.linalg.norm(lab(color, vision) - lab((gray, gray, gray), vision))
            assert distance > 20, f"{marker.value} on gray {gray}: {distance:.0f}"


def test_what_runs_in_the_window_needs_neither_torch_nor_scikit_image(worked_on: Review, tmp_path: Path) -> None:
    """Slicer has neither; what is imported at the moment of use counts as well, so the review is used, not imported."""
    (tmp_path / "review.json").write_text(review_text(worked_on), encoding="utf-8")
    write_result(synthetic_result(), tmp_path / "out", with_images=True)
    program = """
import sys
for absent in ("torch", "skimage", "PIL", "filelock"):
    sys.modules[absent] = None
from pathlib import Path
import numpy as np
import CMBDetectorLib.report, CMBDetectorLib.scene.case, CMBDetectorLib.scene.volumes
from CMBDetectorLib.measure import measure_spot, with_midline
from CMBDetectorLib.report.review_record import review_of
from CMBDetectorLib.report.review_summary import review_lines
from CMBDetectorLib.report.review_table import read_review, write_review
from CMBDetectorLib.volume import Volume
folder = Path(sys.argv[1])
review = review_of((folder / "review.json").read_text(encoding="utf-8"))
ball = np.full((30, 30, 30), 9, np.uint8)
swi = Volume(np.where(np.linalg.norm(np.indices(ball.shape).T - 15, axis=-1) < 3, 1.0, 100.0), np.eye(4))
phase = swi.with_array(np.zeros(ball.shape))
spot = measure_spot((15.0, 15.0, 15.0), swi=swi, regions=with_midline(Volume(ball, np.eye(4))), phase=phase)
assert spot.location and spot.diameter_mm > 3
review.add(spot)
write_review(review, folder / "review.csv")
review.restore(read_review(folder / "review.csv"))
review.merge(review.record)
print(len(review_lines(review)))

import slicer
from CMBDetectorLib.scene.case import show_result
from CMBDetectorLib.scene.volumes import add_volume, write_for_worker
from CMBDetectorLib.volume import read_volume
scene = slicer.vtkMRMLScene()
node = add_volume(scene, read_volume(folder / "out" / "swi.nii.gz"), "SWI")
write_for_worker(node, folder)
case = show_result(folder / "out", node)
assert case.add(case.review.findings[0].position_ras_mm).location
"""
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
