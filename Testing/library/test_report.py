from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageDraw

from CMBDetectorLib import RESEARCH_USE
from CMBDetectorLib.candidate import Location, PhaseEvidence
from CMBDetectorLib.errors import Cancelled, OutputError
from CMBDetectorLib.regions import SUB_REGIONS, Side
from CMBDetectorLib.report import COLUMNS, check_folder, format_table, summary_lines, write_result
from CMBDetectorLib.report import overview as overview_module
from CMBDetectorLib.report.overview import overview
from CMBDetectorLib.report.picture import AXIAL, CORONAL, SAGITTAL, body_axes, gray, minimum_slab, plane, swi_window
from CMBDetectorLib.report.summary import NONE_FOUND, NOT_REVIEWED, count_bin
from CMBDetectorLib.report.write import FILES
from CMBDetectorLib.result import Result
from CMBDetectorLib.volume import Volume, read_volume
from Testing.synthetic_result import BALLS, SPACING_MM, synthetic_result, without_candidates


@pytest.fixture(scope="module")
def result() -> Result:
    return synthetic_result(tilt_deg=17.0)


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(result, tmp_path_factory.mktemp("case") / "out", with_images=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "candidates.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The folder


def test_every_file_is_written_and_no_other(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert os.listdir(folder.parent) == [folder.name]


def test_the_images_are_only_copied_when_asked_for(result: Result, tmp_path: Path) -> None:
    written = write_result(result, tmp_path / "out")
    assert not (written / "swi.nii.gz").exists()
    assert "swi.nii.gz" not in (written / "scene.mrml").read_text()


def test_progress_runs_from_0_to_1(result: Result, tmp_path: Path) -> None:
    calls: list[tuple[str, float, str]] = []
    write_result(result, tmp_path / "out", lambda *call: calls.append(call))
    fractions = [fraction for _, fraction, _ in calls]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert {stage for stage, _, _ in calls} == {"report"}
    assert sum("overview.png" in message for _, _, message in calls) > len(result.reported), (
        "one per row of the picture"
    )


def test_a_cancel_leaves_nothing_behind(result: Result, tmp_path: Path) -> None:
    def cancel(stage: str, fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        write_result(result, tmp_path / "out", cancel)
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_filled(result: Result, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (write_result(result, tmp_path / "out") / "summary.txt").exists()


def test_an_earlier_result_is_kept_unless_asked(result: Result, tmp_path: Path) -> None:
    out = write_result(result, tmp_path / "out")
    before = (out / "candidates.csv").read_bytes()
    with pytest.raises(OutputError, match=r"out holds an earlier result; .*overwrite"):
        write_result(without_candidates(result), out)
    assert (out / "candidates.csv").read_bytes() == before
    write_result(without_candidates(result), out, overwrite=True)
    assert rows(out) == []
    assert os.listdir(tmp_path) == ["out"]


def test_an_earlier_result_survives_a_failed_overwrite(result: Result, tmp_path: Path) -> None:
    out = write_result(result, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def cancel(stage: str, fraction: float, message: str) -> None:
        if fraction == 1.0:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        write_result(without_candidates(result), out, cancel, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]


def test_a_cancelled_write_removes_the_folders_that_it_made_above(result: Result, tmp_path: Path) -> None:
    def cancel(stage: str, fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        write_result(result, tmp_path / "a" / "b" / "out", cancel)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that a picture gets from now on."""
    texts: list[str] = []
    write = overview_module._write

    def note(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, *more: Any) -> int:
        texts.append(text)
        return write(draw, corner, text, *more)

    monkeypatch.setattr(overview_module, "_write", note)
    return texts


def test_the_picture_tells_the_phase_sign_that_it_shows(drawn: list[str]) -> None:
    result = synthetic_result()
    for polarity in ("bright", "dark"):
        drawn.clear()
        overview_module.overview(replace(result, provenance=replace(result.provenance, polarity=polarity)))
        assert any("paramagnetic tissue bright" in text for text in drawn)


def test_the_picture_tells_how_much_of_the_tissue_lies_in_the_sub_region(drawn: list[str]) -> None:
    overview(synthetic_result())
    assert "basal ganglia 55%" in drawn and "frontal 71%" in drawn


def test_the_picture_shows_every_note_of_the_search_whole(drawn: list[str]) -> None:
    result = replace(synthetic_result(), notices=())
    without = overview_module.overview(result)
    notices = ("swi.nii.gz has coronal slices; " + "the networks saw axial ones alone, " * 40, "The sign was measured.")
    page = overview_module.overview(replace(result, notices=notices))
    assert [text for text in drawn if text.startswith("Note: ")] == [f"Note: {notice}" for notice in notices]
    first, second = (overview_module._notice(notice, page.width) for notice in notices)
    assert page.height == without.height + first.height + second.height and first.height > 2 * second.height
    lit = np.asarray(first).max(axis=(1, 2)) > 150
    assert lit[:25].any() and lit[-25:].any(), "its last line is drawn"
    assert not lit[-3:].any(), "and not cut"


def test_the_picture_names_both_regions_of_a_candidate_at_a_border(drawn: list[str]) -> None:
    overview_module.overview(synthetic_result())
    assert [text for text in drawn if "deep or lobar" in text] == ["deep or lobar, left"]
    assert "region 62%, lobar 1.4 mm away" in drawn


def test_a_folder_with_other_files_is_never_replaced(result: Result, tmp_path: Path) -> None:
    out = write_result(result, tmp_path / "out")
    (out / "my notes.txt").write_text("do not lose me")
    with pytest.raises(OutputError, match=r"not a result \(my notes\.txt\)"):
        write_result(result, out, overwrite=True)
    assert (out / "my notes.txt").read_text() == "do not lose me"


def test_a_file_in_place_of_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken is a file"):
        check_folder(tmp_path / "taken")


def test_the_root_of_a_drive_is_refused() -> None:
    with pytest.raises(OutputError, match="root of a drive"):
        check_folder(Path("/"))


def test_a_folder_without_permission_is_refused_before_the_search(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere, so become nobody
    try:
        with pytest.raises(OutputError, match=r"(?i)permission"):
            check_folder(tmp_path / "results")
    finally:
        os.seteuid(user)


def test_a_full_disk_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has 12 MB free, 150 MB are needed"):
        check_folder(tmp_path, free_mb=12)
    check_folder(tmp_path, free_mb=151)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_refused_by_name(result: Result, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file is a file, so .*file/out cannot be a folder"):
        write_result(result, tmp_path / "file" / "out")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from CMBDetectorLib.errors import OutputError
from CMBDetectorLib.report import write_result
from Testing.synthetic_result import synthetic_result
result = synthetic_result()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write_result(result, Path(sys.argv[1]), with_images=True)
except OutputError as problem:
    print(problem)
"""


@pytest.mark.parametrize("limit", [100, 6000, 20_000])
def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    said = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(out), str(limit)], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith(f"Cannot write the results to {out}")
    assert os.listdir(tmp_path) == []


# The table


def test_the_table_has_one_row_per_reported_candidate(folder: Path, result: Result) -> None:
    assert [row["id"] for row in rows(folder)] == [c.id for c in result.reported]
    assert len(result.reported) == len(BALLS) - 1


def test_the_table_holds_the_values_of_the_candidates(folder: Path, result: Result) -> None:
    for row, candidate in zip(rows(folder), result.reported, strict=True):
        place = [float(row[name]) for name in ("r_mm", "a_mm", "s_mm")]
        assert place == pytest.approx(candidate.center_ras_mm, abs=0.005)
        assert float(row["probability"]) == pytest.approx(candidate.probability, abs=0.0005)
        assert float(row["diameter_mm"]) == candidate.diameter_mm
        assert row["excluded"] == ("yes" if candidate.exclusion else "no")
        assert row["exclusion_reason"] == candidate.exclusion
        assert row["sub_region"] == (candidate.location.sub_region_name if candidate.location else "")
        assert row["phase_evidence"] == "paramagnetic"
        assert (row["swi"], row["swi_sha256"]) == ("sub-017_swi.nii.gz", "abababababab")


def test_the_columns_have_distinct_names_and_say_what_they_mean() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert all(column.description for column in COLUMNS)


def test_a_region_boundary_that_is_not_known_is_an_empty_cell(result: Result, tmp_path: Path) -> None:
    place = Location(9, Side.LEFT, 1.0, float("nan"))
    lone = replace(result, candidates=(replace(result.candidates[0], location=place),))
    written = write_result(lone, tmp_path / "out")
    assert rows(written)[0]["boundary_mm"] == ""
    assert json.loads((written / "candidates.json").read_text())["candidates"][0]["location"]["boundary_mm"] is None


def test_the_terminal_table_lists_every_reported_candidate(result: Result) -> None:
    lines = format_table(result).splitlines()
    assert len(lines) == 1 + len(result.reported)
    assert "excluded: outside brain tissue" in next(line for line in lines if "outside" in line)
    assert format_table(without_candidates(result)) == ""


# The record


def test_the_record_keeps_candidates_below_the_threshold(folder: Path, result: Result) -> None:
    record = json.loads((folder / "candidates.json").read_text(encoding="utf-8"))
    assert [entry["id"] for entry in record["candidates"]] == [c.id for c in result.candidates]
    assert [entry["reported"] for entry in record["candidates"]] == [c in result.reported for c in result.candidates]
    assert record["candidates"][0]["center_ras_mm"] == pytest.approx(result.candidates[0].center_ras_mm)
    assert record["provenance"]["swi"] == {"path": "/data/sub-017_swi.nii.gz", "sha256": "ab" * 32}
    assert record["provenance"]["settings"]["polarity"] == "auto"
    assert record["notices"] == list(result.notices)
    assert record["research_use"] == RESEARCH_USE


# The regions


@pytest.mark.parametrize("name", ["regions.nii.gz", "regions.seg.nrrd"])
def test_the_regions_come_back_where_they_were(folder: Path, result: Result, name: str) -> None:
    read = read_volume(folder / name)
    assert np.array_equal(read.array, result.regions.array)
    assert np.abs(read.ijk_to_ras - result.regions.ijk_to_ras).max() < 1e-4
    assert sitk.ReadImage(str(folder / name)).GetPixelID() == sitk.sitkUInt8


def test_the_segments_are_compressed_and_named(folder: Path) -> None:
    header = (folder / "regions.seg.nrrd").read_bytes().split(b"\n\n")[0].decode()
    assert "encoding: gzip" in header
    for index, sub in enumerate(SUB_REGIONS):
        assert f"Segment{index}_Name:={sub.name}\n" in header
        assert f"Segment{index}_LabelValue:={sub.label}\n" in header


# The summary


@pytest.mark.parametrize(("count", "expected"), [(0, "0"), (1, "1"), (2, "2-4"), (5, "5-9"), (9, "5-9"), (10, ">= 10")])
def test_counts_fall_into_the_usual_bins(count: int, expected: str) -> None:
    assert count_bin(count) == expected


def test_a_candidate_at_the_border_of_two_regions_is_named_with_both(result: Result, folder: Path) -> None:
    assert "At a border, so check region and pattern: 3 (deep or lobar)" in summary_lines(result)
    assert [("deep or lobar" in line) for line in format_table(result).splitlines()[1:]] == [False, False, True, False]
    assert [row["next_region"] for row in rows(folder)] == ["deep", "deep", "lobar", ""]
    assert [row["region"] for row in rows(folder)] == ["lobar", "infratentorial", "deep", ""], "one word, for programs"
    markups = json.loads((folder / "candidates.mrk.json").read_text())["markups"][0]["controlPoints"]
    assert "(deep or lobar)" in markups[2]["description"] and "(lobar)" in markups[0]["description"]


def test_region_sub_region_and_side_stand_with_their_probabilities(folder: Path) -> None:
    names = ("region_probability", "sub_region_probability", "side_probability")
    written = [tuple(row[name] for name in names) for row in rows(folder)]
    assert written == [("0.93", "0.71", "0.98"), ("0.93", "0.71", "0.98"), ("0.62", "0.55", "0.98"), ("", "", "")]


def test_a_probability_that_is_not_known_is_empty(result: Result, tmp_path: Path) -> None:
    place = Location(9, Side.LEFT, 1.0, 4.0)
    unknown = replace(result, candidates=(replace(result.candidates[0], location=place),))
    folder = write_result(unknown, tmp_path / "out")
    assert [rows(folder)[0][name] for name in ("sub_region_probability", "side_probability")] == ["", ""]
    location = json.loads((folder / "candidates.json").read_text())["candidates"][0]["location"]
    assert (location["sub_region_probability"], location["side_probability"]) == (None, None)


def test_the_summary_of_candidates_away_from_borders_speaks_of_none(result: Result) -> None:
    away = replace(result, candidates=result.candidates[:2])
    assert not [line for line in summary_lines(away) if "border" in line]


def test_the_summary_counts_what_counts(result: Result) -> None:
    text = "\n".join(summary_lines(result))
    assert "Candidates counted: 3 (bin 2-4)" in text
    assert all(any(line.split() == [region, "1"] for line in summary_lines(result))
               for region in ("lobar", "deep", "infratentorial"))  # fmt: skip
    assert "Pattern: mixed" in text
    assert "Excluded by anatomy, not counted: 1 outside brain tissue" in text
    assert NOT_REVIEWED in text
    assert NONE_FOUND not in text
    assert result.notices[0] in text
    assert max(map(len, summary_lines(result))) <= 100


def test_the_summary_says_that_finding_none_is_no_evidence(result: Result) -> None:
    lines = summary_lines(without_candidates(result))
    assert NONE_FOUND in lines
    assert NOT_REVIEWED not in lines
    assert f"Searched: {result.searched_ml:.0f} ml of brain" in "\n".join(lines)


def test_the_summary_warns_where_there_was_no_phase() -> None:
    assert any("Without phase" in line for line in summary_lines(synthetic_result(phase=False)))


def test_the_written_summary_is_the_one_of_the_terminal(folder: Path, result: Result) -> None:
    assert (folder / "summary.txt").read_text(encoding="utf-8").splitlines() == summary_lines(result)


# The picture


@pytest.fixture(scope="module")
def ball() -> Result:
    """One ball of 6 mm, 20 mm from a brighter one to its left and a brighter one in front of it."""
    made = synthetic_result(tilt_deg=17.0, balls=(((48, 48, 12), 6.0, 0.9, 9, ""),))
    swi = made.swi.array.copy()
    swi[60:64, 46:50, 12] = 900  # i runs to the patient's left
    swi[46:50, 30:34, 12] = 900  # j runs to the back
    return replace(made, swi=made.swi.with_array(swi))


def cut(result: Result, view: Any, width_mm: float = 36.0) -> np.ndarray:
    at = result.candidates[0].center_ras_mm
    return plane(result.swi, at, view, body_axes(result.swi), width_mm=width_mm, pixels=180, order=1)


@pytest.mark.parametrize("view", [AXIAL, CORONAL, SAGITTAL], ids=lambda view: view.name)
def test_the_candidate_is_at_the_middle_and_true_to_scale(ball: Result, view: Any) -> None:
    dark = np.argwhere(cut(ball, view) < 150)
    assert dark.mean(axis=0) == pytest.approx([89.5, 89.5], abs=1.5)
    height_mm, width_mm = np.ptp(dark, axis=0) * 36 / 180
    assert width_mm == pytest.approx(6, abs=1.0)
    assert height_mm == pytest.approx(6, abs=SPACING_MM[2] if view is not AXIAL else 1.0)


def test_the_patients_left_is_on_the_right_and_front_is_up(ball: Result) -> None:
    bright = np.argwhere(cut(ball, AXIAL) > 600)
    assert ((bright[:, 1] > 130) & (abs(bright[:, 0] - 90) < 20)).any(), "the left one is on the right"
    assert ((bright[:, 0] < 50) & (abs(bright[:, 1] - 90) < 20)).any(), "the front one is up"
    assert not ((bright[:, 1] < 50) | (bright[:, 0] > 130)).any()


def test_the_front_is_on_the_left_of_a_sagittal_plane(ball: Result) -> None:
    bright = np.argwhere(cut(ball, SAGITTAL) > 600)
    assert len(bright)
    assert (bright[:, 1] < 60).all()


def test_the_head_is_up_in_coronal_and_sagittal_planes(ball: Result) -> None:
    swi = np.full(ball.swi.array.shape, 300.0)
    swi[:, :, 14:16] = 900
    above = replace(ball, swi=ball.swi.with_array(swi))
    for view in (CORONAL, SAGITTAL):
        bright = np.argwhere(cut(above, view) > 600)
        assert len(bright)
        assert (bright[:, 0] < 80).all()


def test_a_stored_order_of_axes_makes_no_difference(ball: Result) -> None:
    other = replace(ball, swi=ball.swi.in_ras_order())
    for view in (AXIAL, CORONAL, SAGITTAL):
        assert np.allclose(cut(ball, view), cut(other, view), atol=0.01, equal_nan=True)


def test_outside_the_scan_a_picture_is_black(ball: Result) -> None:
    wide = cut(ball, CORONAL, width_mm=200.0)
    assert np.isnan(wide[0]).all()
    assert gray(wide, (0.0, 300.0))[0].max() == 0


def test_a_slab_shows_the_darkest_of_its_slices(ball: Result) -> None:
    swi = np.full(ball.swi.array.shape, 300.0)
    swi[50, 48, 13] = 0  # one slice above the candidate
    volume = ball.swi.with_array(swi)
    at, axes = ball.candidates[0].center_ras_mm, body_axes(volume)
    slab = minimum_slab(volume, at, AXIAL, axes, width_mm=36.0, pixels=180, thickness_mm=8.0)
    assert np.nanmin(plane(volume, at, AXIAL, axes, width_mm=36.0, pixels=180, order=1)) == pytest.approx(300)
    assert np.nanmin(slab) < 100


def test_the_window_shows_lesions_darker_than_tissue(result: Result) -> None:
    low, high = swi_window(result.swi, result.regions)
    assert 0 <= low < 300 < high


def test_the_picture_has_a_row_per_candidate_and_not_too_many(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("CMBDetectorLib.report.overview.SHOWN", 3)
    heights = []
    for count in (1, 2, 3, 5):
        some = tuple(replace(result.candidates[0], number=n + 1) for n in range(count))
        heights.append(overview(replace(result, candidates=some)).height)
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_the_picture_of_an_empty_brain_is_drawn(result: Result) -> None:
    empty = replace(without_candidates(result), regions=result.regions.with_array(result.regions.array * 0))
    assert np.asarray(overview(empty)).max() > 200


def test_the_phase_is_shown_from_its_own_grid(result: Result) -> None:
    assert result.phase is not None
    ordered = result.phase.in_ras_order()
    cropped = Volume(ordered.array[5:], ordered.ijk_to_ras.copy())
    cropped.ijk_to_ras[:3, 3] = ordered.ras_of((5, 0, 0))
    assert np.array_equal(np.asarray(overview(replace(result, phase=cropped))), np.asarray(overview(result)))


def test_the_picture_is_wider_with_phase(result: Result, folder: Path) -> None:
    bare = replace(result, phase=None, provenance=replace(result.provenance, phase=None, polarity="none"))
    bare = replace(bare, candidates=tuple(replace(c, phase_evidence=PhaseEvidence.NO_PHASE) for c in bare.candidates))
    assert overview(bare).width < Image.open(folder / "overview.png").width


def test_a_long_file_name_stays_in_its_column(result: Result) -> None:
    name = replace(result.provenance.swi, path="/data/" + "a_very_long_name_" * 20 + ".nii.gz")
    long = replace(result, provenance=replace(result.provenance, swi=name))
    column = np.asarray(overview(long))[:300, 330:338]
    assert np.array_equal(column, np.asarray(overview(result))[:300, 330:338])
