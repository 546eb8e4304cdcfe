"""The bundled sample from files to candidates: every format, order of storage and way in gives the same answer."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from CMBDetectorLib import models
from CMBDetectorLib.evaluation.matching import match
from CMBDetectorLib.pipeline import run, threshold
from CMBDetectorLib.report.summary import summary_lines
from CMBDetectorLib.request import DetectionRequest, Settings
from CMBDetectorLib.result import Result
from CMBDetectorLib.volume import Volume, read_volume, write_volume
from Testing.dicom_series import write_dicom_series
from Testing.small_scan import SAMPLE, Scan
from Testing.worker_process import start_worker

TRUTH = json.loads(SAMPLE.swi.with_name("truth.json").read_text())


def search(swi: Path, phase: Path | None, settings: Settings | None = None) -> Result:
    asked = DetectionRequest(swi=swi, phase=phase, out=Path("unused"), settings=settings or Settings())
    return run(asked, lambda *_: None)


@pytest.fixture(scope="module")
def sample() -> Result:
    return search(*SAMPLE)


@pytest.mark.parametrize(
    ("settings", "manifest", "reads_phase", "expected"),
    [
        (Settings(), {"threshold": 0.6, "threshold_without_phase": 0.8}, True, 0.6),
        (Settings(), {"threshold": 0.6, "threshold_without_phase": 0.8}, False, 0.8),
        (Settings(), {"threshold": 0.6}, False, 0.6),
        (Settings(threshold=0.3), {"threshold": 0.6, "threshold_without_phase": 0.8}, False, 0.3),
    ],
)
def test_the_threshold_is_the_users_or_the_one_chosen_for_what_is_read(
    settings: Settings, manifest: dict[str, float], reads_phase: bool, expected: float
) -> None:
    detector = replace(models.load_model("detector", device="cpu"), manifest=manifest)
    assert threshold(settings, detector, reads_phase) == expected


def test_swi_alone_is_reported_from_its_own_threshold_on(small_scan: Scan) -> None:
    manifest = models.load_model("detector", device="cpu").manifest
    assert search(small_scan.swi, small_scan.phase).provenance.threshold == manifest["threshold"]
    assert search(small_scan.swi, None).provenance.threshold == manifest["threshold_without_phase"]


MANY = Settings(threshold=0.17)  # weak answers, too, have to be the same


def search_in_float32(swi: Path, phase: Path) -> Result:
    """Give all answers in float32: in bfloat16, rounding of turned coordinates moves weak ones by up to 0.02."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "has_native_bfloat16", lambda: False)
        result = search(swi, phase, MANY)
    assert "float32" in result.provenance.device
    return result


@pytest.fixture(scope="module")
def small(small_scan: Scan) -> Result:
    return search_in_float32(*small_scan)


@pytest.fixture(scope="module")
def images(small_scan: Scan) -> tuple[Volume, Volume]:
    return read_volume(small_scan.swi), read_volume(small_scan.phase)


def assert_same(result: Result, expected: Result, move=lambda ras_mm: ras_mm) -> None:
    """Lesion for lesion, 0.5 mm and 0.01 in probability, above the threshold."""
    assert len(result.reported) >= 8  # enough to compare; the bundled detector reports 9
    floor = expected.provenance.threshold + 0.02  # one at the threshold itself may fall to either side
    for one, others in ((result, expected), (expected, result)):
        forward = move if one is expected else (lambda ras_mm: ras_mm)
        backward = move if others is expected else (lambda ras_mm: ras_mm)
        for candidate in one.reported:
            if candidate.probability < floor:
                continue
            place = forward(np.array(candidate.center_ras_mm))
            apart_mm = [np.linalg.norm(backward(np.array(o.center_ras_mm)) - place) for o in others.candidates]
            nearest = others.candidates[int(np.argmin(apart_mm))]
            assert min(apart_mm) < 0.5, f"{candidate.label} is missing"
            assert abs(nearest.probability - candidate.probability) < 0.01
            assert nearest.exclusion == candidate.exclusion
            if candidate.location is None:  # outside brain tissue
                assert nearest.location is None
                continue
            assert nearest.location is not None
            assert nearest.location.region == candidate.location.region
            assert nearest.location.side == candidate.location.side


def test_the_sample_gives_its_lesions_and_hardly_anything_else(sample):
    counted = sample.counted
    matched = match(
        [c.probability for c in counted],
        [c.center_ras_mm for c in counted],
        [lesion["center_ras_mm"] for lesion in TRUTH["lesions"]],
        [lesion["center_ras_mm"] for lesion in TRUTH["faint"]],
    )
    assert (matched.lesion >= 0).sum() >= 0.8 * matched.lesions
    assert (matched.lesion == -1).sum() <= 2


def test_numbers_fall_with_probability_and_ids_are_unique(sample):
    assert [c.number for c in sample.candidates] == list(range(1, len(sample.candidates) + 1))
    probabilities = [c.probability for c in sample.candidates]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len({c.id for c in sample.candidates}) == len(sample.candidates)


def test_regions_lie_on_the_grid_of_the_swi_and_name_most_of_the_brain(sample):
    swi = read_volume(SAMPLE.swi)
    assert sample.regions.array.shape == swi.array.shape
    assert np.allclose(sample.regions.ijk_to_ras, swi.ijk_to_ras)
    assert 600 < sample.searched_ml < 2500
    truth, found = read_volume(SAMPLE.swi.with_name("mars.nii.gz")).array > 0, sample.regions.array > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85


def test_nrrd_stored_sagittally_gives_the_same(small, images, tmp_path):
    for volume, name in zip(images, ("swi", "phase"), strict=True):
        axes = (1, 2, 0)
        matrix = volume.ijk_to_ras.copy()
        matrix[:, :3] = matrix[:, list(axes)]
        write_volume(Volume(np.transpose(volume.array, axes), matrix), tmp_path / f"{name}.nrrd")
    assert_same(search_in_float32(tmp_path / "swi.nrrd", tmp_path / "phase.nrrd"), small)


def test_metaimage_flipped_to_lps_gives_the_same(small, images, tmp_path):
    for volume, name in zip(images, ("swi", "phase"), strict=True):
        matrix = volume.ijk_to_ras.copy()
        matrix[:3, 3] = volume.ras_of([volume.array.shape[0] - 1, volume.array.shape[1] - 1, 0])
        matrix[:3, :2] *= -1
        flipped = volume.array[::-1, ::-1]
        write_volume(Volume(np.ascontiguousarray(flipped), matrix), tmp_path / f"{name}.mha")
    assert_same(search_in_float32(tmp_path / "swi.mha", tmp_path / "phase.mha"), small)


def test_an_oblique_dicom_series_gives_the_same_at_the_rotated_places(small, images, tmp_path):
    angle = np.deg2rad(9.0)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for volume, name in zip(images, ("swi", "phase"), strict=True):
        write_dicom_series(replace(volume, ijk_to_ras=turn @ volume.ijk_to_ras), tmp_path / name)
    rotated = search_in_float32(tmp_path / "swi", tmp_path / "phase")
    assert_same(rotated, small, move=lambda ras_mm: turn[:3, :3] @ ras_mm)


def test_the_opposite_phase_sign_changes_nothing(small, small_scan, images, tmp_path):
    _, phase = images
    write_volume(replace(phase, array=np.clip(-phase.array, -4096, 4095)), tmp_path / "phase.nii.gz")
    opposite = search_in_float32(small_scan.swi, tmp_path / "phase.nii.gz")
    assert opposite.provenance.polarity != small.provenance.polarity
    assert_same(opposite, small)


def test_every_lesion_found_has_the_right_side_and_most_the_right_region(sample):
    right = {"region": 0, "side": 0, "of": 0}
    for lesion in TRUTH["lesions"]:
        apart_mm = [np.linalg.norm(np.subtract(c.center_ras_mm, lesion["center_ras_mm"])) for c in sample.counted]
        location = sample.counted[int(np.argmin(apart_mm))].location
        if min(apart_mm) <= 5 and location is not None:
            right["of"] += 1
            right["region"] += location.region.value == lesion["region"]
            right["side"] += lesion["side"] == "midline" or location.side.value == lesion["side"]
    assert right["of"] >= 8
    assert right["side"] == right["of"]
    assert right["region"] >= 0.8 * right["of"]


def test_without_phase_it_runs_and_says_what_is_lost(small_scan):
    alone = search(small_scan.swi, None)
    assert len(alone.reported) >= 1
    assert any("calcification" in notice for notice in alone.notices)
    assert alone.provenance.polarity == "none"


def test_the_worker_and_the_command_line_write_the_same_as_the_library(small_scan: Scan, tmp_path: Path) -> None:
    expected = search(*small_scan, MANY)
    process = start_worker(
        tmp_path / "request.json", swi=small_scan.swi, phase=small_scan.phase, settings=MANY, out=tmp_path / "worker"
    )
    assert process.stdout is not None
    events = [json.loads(line) for line in process.stdout]
    assert events[-1]["event"] == "result", events[-1]
    assert process.wait() == 0
    assert events[0]["event"] == "started"
    fractions = [event["fraction"] for event in events[1:-1]]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1.0)
    subprocess.run(
        [sys.executable, "-m", "CMBDetectorLib", "detect", "--swi", str(small_scan.swi), "--phase",
         str(small_scan.phase), "--out", str(tmp_path / "command"), "--quiet", "--threshold", str(MANY.threshold)],
        check=True,
    )  # fmt: skip
    for folder in ("worker", "command"):
        with (tmp_path / folder / "candidates.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == [c.id for c in expected.reported]
        assert [float(row["probability"]) for row in rows] == pytest.approx(
            [c.probability for c in expected.reported], abs=0.02
        )
        regions = sitk.ReadImage(str(tmp_path / folder / "regions.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(regions).T, expected.regions.array)


def test_phase_whose_sign_cannot_be_told_is_left_out_with_a_notice(
    tmp_path: Path, small_scan: Scan, images: tuple[Volume, Volume]
) -> None:
    torn = images[1].array.copy()  # four eighths of the head say one sign, the four that they touch the other
    halves = np.ogrid[tuple(slice(n) for n in torn.shape)]
    torn[sum(half >= n // 2 for half, n in zip(halves, torn.shape, strict=True)) % 2 == 1] *= -1
    write_volume(images[1].with_array(torn), tmp_path / "phase.nii.gz")
    result, alone = search(small_scan.swi, tmp_path / "phase.nii.gz", MANY), search(small_scan.swi, None, MANY)
    assert any("the phase was not used" in notice for notice in result.notices)
    assert (result.phase, result.provenance.polarity) == (None, "none")
    text = "\n".join(summary_lines(result))
    assert "Phase: phase.nii.gz, not used: its sign cannot be told" in text
    assert "Without phase, calcifications cannot be told" in text
    assert [c.center_ras_mm for c in result.reported] == [c.center_ras_mm for c in alone.reported]
