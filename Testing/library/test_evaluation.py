"""Matching and FROC against cases worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from CMBDetectorLib.errors import InputError, OutputError
from CMBDetectorLib.evaluation.bootstrap import draws, percentiles
from CMBDetectorLib.evaluation.charts import draw
from CMBDetectorLib.evaluation.cohort import CHARTS, evaluate
from CMBDetectorLib.evaluation.cohort_page import write_page
from CMBDetectorLib.evaluation.conspicuity import conspicuities
from CMBDetectorLib.evaluation.evaluated import Evaluated
from CMBDetectorLib.evaluation.figures import FOUND_TWICE, NO_MIMIC, _by_probability, figures
from CMBDetectorLib.evaluation.folders import case_folders, prepare_folder, true_regions
from CMBDetectorLib.evaluation.froc import Pooled, choose_threshold, operating_point
from CMBDetectorLib.evaluation.matching import FALSE, NEUTRAL, match
from CMBDetectorLib.request import Settings
from CMBDetectorLib.volume import Volume, write_volume
from Testing.synthetic_result import synthetic_result

THRESHOLD = 0.5  # of the synthetic result
LESIONS = [(0.0, 0.0, 0.0), (20.0, 0.0, 0.0)]


def test_a_second_detection_of_one_lesion_is_a_false_positive():
    matched = match([0.6, 0.9], [(1, 0, 0), (0, 1, 0)], LESIONS)
    assert matched.probability.tolist() == [0.9, 0.6]
    assert matched.lesion.tolist() == [0, FALSE]


def test_a_detection_at_the_limit_counts_and_beyond_it_does_not():
    assert match([0.5], [(5.0, 0, 0)], LESIONS).lesion.tolist() == [0]
    assert match([0.5], [(5.1, 0, 0)], LESIONS).lesion.tolist() == [FALSE]
    assert match([0.5], [(4.0, 0, 0)], LESIONS, within_mm=3.0).lesion.tolist() == [FALSE]


def test_a_detection_on_a_faint_lesion_counts_neither_way():
    matched = match([0.9], [(50, 0, 0)], LESIONS, faint_ras_mm=[(51, 0, 0)])
    assert matched.lesion.tolist() == [NEUTRAL]
    point = operating_point([matched], 0.5)
    assert point.false_positives_per_case == 0 and point.sensitivity == 0


def test_a_detection_nearer_to_a_faint_lesion_leaves_the_other_one_to_be_found():
    matched = match([0.9, 0.8], [(4.8, 0, 0), (-0.9, 0, 0)], LESIONS, faint_ras_mm=[(6, 0, 0)])
    assert matched.lesion.tolist() == [NEUTRAL, 0]


def test_a_second_detection_counts_for_a_free_lesion_within_reach():
    matched = match([0.9, 0.8, 0.7], [(0, 0, 0), (1, 0, 0), (1, 0, 0)], [(0, 0, 0), (5.5, 0, 0)])
    assert matched.lesion.tolist() == [0, 1, FALSE]


def test_the_free_response_curve_of_two_cases_is_as_worked_out_by_hand():
    first = match([0.9, 0.7, 0.4], [(0, 0, 0), (90, 0, 0), (20, 0, 0)], LESIONS)
    second = match([0.8], [(5, 5, 5)], [])  # a case without lesions
    curve = Pooled([first, second]).curve()
    assert curve.threshold.tolist() == [0.9, 0.8, 0.7, 0.4]
    assert curve.sensitivity.tolist() == [0.5, 0.5, 0.5, 1.0]
    assert curve.false_positives_per_case.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 2 / 4])


def test_every_point_of_the_curve_is_what_its_threshold_gives_on_the_cases_drawn():
    rng = np.random.default_rng(0)
    probabilities = [rng.integers(1, 20, 15) / 20 for _ in range(4)]  # many are equal
    cases = [match(p, rng.uniform(-20, 20, (15, 3)), rng.uniform(-20, 20, (5, 3))) for p in probabilities]
    drawn = np.array([0, 2, 2, 3])
    curve = Pooled(cases).curve(np.bincount(drawn, minlength=4))
    for n, threshold in enumerate(curve.threshold):
        point = operating_point([cases[i] for i in drawn], threshold)
        assert curve.sensitivity[n] == pytest.approx(point.sensitivity)
        assert curve.false_positives_per_case[n] == pytest.approx(point.false_positives_per_case)
        assert curve.precision[n] == pytest.approx(point.precision, nan_ok=True)


def test_false_positives_at_equal_sensitivity_are_read_off_the_curve():
    case = match([0.9, 0.8, 0.7, 0.4], [(90, 0, 0), (0, 0, 0), (80, 0, 0), (20, 0, 0)], LESIONS)
    curve = Pooled([case, match([], [], [])]).curve()
    assert [curve.false_positives_at(level) for level in (0.3, 0.5, 0.51, 1.0)] == [0.5, 0.5, 1.0, 1.0]
    assert Pooled([match([0.9], [(0, 0, 0)], LESIONS)]).curve().false_positives_at(0.6) == np.inf


def test_the_figures_of_one_threshold_are_as_worked_out_by_hand():
    first = match([0.9, 0.7, 0.4], [(0, 0, 0), (90, 0, 0), (20, 0, 0)], LESIONS)
    second = match([0.8], [(5, 5, 5)], [])
    point = operating_point([first, second], 0.5)
    assert point.f1 == pytest.approx(2 * 0.5 * (1 / 3) / (0.5 + 1 / 3))
    assert point.sensitivity_per_case == 0.5
    assert point.precision_per_case == pytest.approx((1 / 2 + 0) / 2)
    assert point.f1_per_case == pytest.approx((2 * 1 / (2 + 2) + 0) / 2)
    assert point.count_error == pytest.approx((0 + 1) / 2)


def test_sensitivity_is_read_off_the_curve_at_or_below_the_false_positives_asked_for():
    first = match([0.9, 0.7, 0.4], [(0, 0, 0), (90, 0, 0), (20, 0, 0)], LESIONS)
    curve = Pooled([first]).curve()
    assert [curve.sensitivity_at(level) for level in (0.0, 0.99, 1.0)] == [0.5, 0.5, 1.0]
    assert Pooled([match([0.9], [(90, 0, 0)], LESIONS)]).curve().sensitivity_at(0.5) == 0.0


def interval(cases: list, figure: Callable[[list], float], heads: list[str] | None = None) -> tuple[float, float]:
    """Interval of a figure; without heads every case is a patient of its own."""
    heads = heads or [str(n) for n in range(len(cases))]
    return percentiles([figure([cases[i] for i in drawn]) for drawn in draws(heads)])


def test_the_interval_of_a_mean_over_patients_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    low, high = interval(values.tolist(), lambda sample: float(np.mean(sample)))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_cases_of_one_head_are_drawn_together_and_widen_the_interval():
    drawn = list(draws(["a", "a", "b", "b", "b"], resamples=200))
    assert {len(cases) for cases in drawn} == {4, 5, 6}
    assert any(set(cases.tolist()) <= {0, 1} for cases in drawn)
    rng = np.random.default_rng(0)
    heads = [str(n // 20) for n in range(80)]
    values = [float(head) + rng.normal() for head in heads]

    def width(heads: list[str] | None) -> float:
        low, high = interval(values, lambda sample: float(np.mean(sample)), heads=heads)
        return high - low

    assert width(heads) > 2 * width(None)


def test_an_interval_ignores_resamples_that_do_not_define_the_figure():
    with_one_lesion, without = match([0.9], [(0, 0, 0)], LESIONS[:1]), match([], [], [])
    low, high = interval([with_one_lesion, without], lambda sample: operating_point(sample, 0.5).sensitivity)
    assert (low, high) == (1.0, 1.0)


def test_the_threshold_chosen_is_the_lowest_that_keeps_false_positives_down():
    case = match([0.9, 0.55, 0.3], [(0, 0, 0), (90, 0, 0), (20, 0, 0)], LESIONS)
    assert choose_threshold([case], 1.0).threshold == pytest.approx(0.10)
    chosen = choose_threshold([case], 0.0)
    assert chosen.threshold == pytest.approx(0.56)
    assert chosen.sensitivity == 0.5


def test_no_detection_and_no_lesion_give_no_sensitivity_rather_than_a_number():
    empty = match([], [], [])
    point = operating_point([empty], 0.5)
    assert np.isnan(point.sensitivity) and np.isnan(point.precision)
    assert point.false_positives_per_case == 0


def evaluated(lesions: list[int], mimics: list[int]) -> Evaluated:
    """A case whose candidates (by number in the synthetic result) are lesions, mimics, or neither."""
    result = synthetic_result()
    places = {c.number: c for c in result.candidates}

    def entry(number: int, kind: str) -> dict:
        found = places[number]
        region = found.location.region.value if found.location else ""
        sub_region = found.location.sub_region if found.location else 0
        side = found.location.side.value if found.location else "midline"
        return {"kind": kind, "center_ras_mm": list(found.center_ras_mm), "diameter_mm": 4.0, "contrast": 0.6,
                "region": region, "sub_region": sub_region, "side": side}  # fmt: skip

    truth = {
        "head": "02", "protocol": "3T-2mm", "faint": [],
        "lesions": [entry(n, "microbleed") for n in lesions],
        "mimics": [entry(n, "vein bend") for n in mimics],
    }  # fmt: skip
    return Evaluated("case", truth, result.candidates, {"lobar": 0.9, "deep": 0.8, "infratentorial": 0.7})


def checkered(
    usual: float, deviation: float, center_ras_mm, diameter_mm: float, middle: float, slice_mm: float = 0.5
) -> Volume:
    """Voxels of 0.5 mm that hold the usual or a deviation more or less, and one ball of another brightness."""
    r, a, s = np.indices((40, 44, round(20 / slice_mm)))
    array = usual + deviation * ((r + a + s) % 3 - 1.0)
    scan = Volume(array, np.diag([0.5, 0.5, slice_mm, 1.0]))
    distance = np.linalg.norm(np.stack((r, a, s), -1) * [0.5, 0.5, slice_mm] - center_ras_mm, axis=-1)
    return scan.with_array(np.where(distance <= diameter_mm / 2, middle, array))


def everywhere(scan: Volume) -> Volume:
    return scan.with_array(np.ones(scan.array.shape, np.uint8))


LESION = {"center_ras_mm": (10.0, 10.0, 10.0), "diameter_mm": 4.0}
NORMAL = 1.4826  # standard deviations in a median absolute deviation of 1


@pytest.mark.parametrize(("gain", "slice_mm"), [(1.0, 0.5), (0.01, 0.5), (1.0, 2.0), (1.0, 2.5)])
def test_a_lesion_stands_out_by_its_darkness_in_deviations_of_what_lies_around_it(gain, slice_mm):
    scan = checkered(100 * gain, 2 * gain, (10, 10, 10), 4.0, 70 * gain, slice_mm)
    (found,) = conspicuities(scan, everywhere(scan), [LESION])
    assert found == pytest.approx((100 - 70) / (2 * NORMAL), rel=1e-4)


def test_a_lesion_among_dark_neighbors_hardly_stands_out():
    scan = checkered(100.0, 2.0, (10, 10, 10), 4.0, 70.0)
    beside = np.where(np.indices(scan.array.shape)[0] % 5 < 2, 60.0, scan.array)  # sheets as dark as veins
    among = np.where(scan.array == 70.0, 70.0, beside)
    (alone,) = conspicuities(scan, everywhere(scan), [LESION])
    (hidden,) = conspicuities(scan.with_array(among), everywhere(scan), [LESION])
    assert hidden < 0.7 * alone


def test_what_lies_outside_the_brain_does_not_hide_a_lesion_at_its_surface():
    scan = checkered(100.0, 2.0, (10, 10, 10), 4.0, 70.0)
    brain = np.zeros(scan.array.shape, np.uint8)
    brain[14:] = 1  # 1 mm beyond the lesion
    outside = scan.with_array(np.where(brain, scan.array, 1000.0 * (np.indices(scan.array.shape)[1] % 3)))
    (found,) = conspicuities(outside, scan.with_array(brain), [LESION])
    assert found == pytest.approx((100 - 70) / (2 * NORMAL), rel=1e-4)


def test_how_far_a_lesion_stands_out_does_not_depend_on_how_the_scan_is_stored():
    scan = checkered(100.0, 2.0, (10, 9, 12), 3.0, 80.0, slice_mm=1.0)
    brain = everywhere(scan).array
    brain[:16] = 0  # near the lesion on one side
    lesion = {"center_ras_mm": (10.0, 9.0, 12.0), "diameter_mm": 3.0}
    turned = np.diag([1.0, -1.0, 1.0, 1.0])
    turned[1, 3] = 43
    stored = Volume(scan.array[:, ::-1].transpose(2, 1, 0), scan.ijk_to_ras @ turned @ np.eye(4)[[2, 1, 0, 3]])
    found = conspicuities(scan, scan.with_array(brain), [lesion])
    assert found == pytest.approx((20 / (2 * NORMAL),), rel=1e-4)
    assert conspicuities(stored, scan.with_array(brain), [lesion]) == pytest.approx(found)


@pytest.mark.parametrize("center_ras_mm", [(90.0, 0.0, 0.0), (10.0, 10.0, -3.0)])
def test_a_lesion_off_the_scan_has_no_conspicuity(center_ras_mm):
    scan = checkered(100.0, 2.0, (10, 10, 10), 4.0, 70.0)
    (found,) = conspicuities(scan, everywhere(scan), [{"center_ras_mm": center_ras_mm, "diameter_mm": 4.0}])
    assert np.isnan(found)


# Cases and folders


def case_folder(folder, *, without=""):
    folder.mkdir(parents=True)
    for name in {"swi.nii.gz", "mars.nii.gz", "phase.nii.gz"} - {without}:
        (folder / name).touch()
    (folder / "truth.json").write_text(json.dumps(evaluated([], []).truth))
    return folder


def test_cases_of_folders_of_one_name_keep_names_of_their_own(tmp_path):
    a, b = (case_folder(tmp_path / scanner / "test" / "case_0000") for scanner in ("A", "B"))
    assert case_folders(a.parent, b.parent) == {"A-test-case_0000": a, "B-test-case_0000": b}
    assert case_folders(a.parent) == {"test-case_0000": a}
    with pytest.raises(InputError, match="given twice"):
        case_folders(a.parent, b.parent, a.parent / ".." / "test")


def test_a_case_without_its_regions_is_named_before_any_search(tmp_path):
    case_folder(tmp_path / "case_0000")
    case_folder(tmp_path / "case_0001", without="mars.nii.gz")
    with pytest.raises(InputError, match=r"case_0001 lacks mars\.nii\.gz"):
        case_folders(tmp_path)


def test_an_earlier_evaluation_is_not_replaced_unasked(tmp_path):
    (tmp_path / "evaluation.json").write_text("earlier")
    with pytest.raises(OutputError, match=r"evaluation\.json is there already"):
        prepare_folder(tmp_path, "evaluation.json", overwrite=False)
    assert prepare_folder(tmp_path, "evaluation.json", overwrite=True)
    assert not prepare_folder(tmp_path / "new" / "folder", "evaluation.json", overwrite=True)
    with pytest.raises(OutputError, match="is a file; give the name of a folder"):
        prepare_folder(tmp_path / "evaluation.json", "evaluation.json", overwrite=True)
    assert (tmp_path / "evaluation.json").read_text() == "earlier"


def test_true_regions_of_another_grid_are_refused_by_name(tmp_path):
    result = synthetic_result()
    cropped = dataclasses.replace(result.regions, array=result.regions.array[:-1])
    write_volume(cropped, tmp_path / "mars.nii.gz")
    (tmp_path / "truth.json").write_text(json.dumps(evaluated([1, 5], [2]).truth))
    with pytest.raises(InputError, match=r"mars\.nii\.gz has .* voxels, the SWI"):
        Evaluated.of("case", tmp_path, result)


@pytest.mark.parametrize(("label", "named"), [(14, "14"), (-1, "-1"), (0.5, "0.5")])
def test_true_regions_with_a_label_that_is_none_are_refused_by_name(tmp_path, label, named):
    labels = np.full((4, 4, 4), 9, np.float32)
    labels[1, 2, 3] = label
    swi = Volume(labels, np.eye(4))
    write_volume(swi, tmp_path / "mars.nii.gz")
    with pytest.raises(InputError, match=rf"mars\.nii\.gz has the label {named}; MARS has 0 \(none\) to 13"):
        true_regions(tmp_path, swi)


def test_a_device_that_is_not_there_is_told_before_any_search(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    case_folder(tmp_path / "test" / "case_0000")
    with pytest.raises(InputError, match="torch finds no GPU"):
        evaluate([tmp_path / "test"], tmp_path / "out", settings=Settings(device="cuda"))
    assert not (tmp_path / "out").exists()


def test_a_result_is_joined_with_the_truth_in_its_folder(tmp_path):
    result, truth = synthetic_result(), evaluated([1, 5], [2]).truth
    write_volume(result.regions, tmp_path / "mars.nii.gz")
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    joined = Evaluated.of("case", tmp_path, result)
    assert joined.truth == truth and joined.candidates == result.candidates
    assert {"lobar", "deep", "infratentorial"} <= set(joined.dice) and set(joined.dice.values()) == {1.0}
    assert len(joined.conspicuity) == 2
    assert joined.conspicuity[0] > 4, "a ball of 0 in an even brain"
    assert joined.seconds == sum(result.provenance.seconds_per_stage.values())
    assert joined.threshold == result.provenance.threshold


@pytest.mark.parametrize(("least", "kept"), [(0.0, 3), (0.7, 2), (0.71, 1), (0.95, 0)])
def test_detections_are_cut_off_below_a_probability(least, kept):
    found = match([0.9, 0.7, 0.2], [(0, 0, 0), (50, 0, 0), (99, 0, 0)], [(0, 0, 0), (99, 0, 0)]).at_least(least)
    assert found.probability.tolist() == [0.9, 0.7, 0.2][:kept]
    assert found.lesion.tolist() == [0, FALSE, 1][:kept]
    assert found.lesions == 2


def test_a_case_with_a_higher_threshold_of_its_own_is_counted_at_that():
    # 1, 2 and 3 have probabilities of 0.91, 0.83 and 0.72; 3 is the lesion, so at 0.8 it is missed.
    as_others, own = evaluated([3], []), dataclasses.replace(evaluated([3], []), threshold=0.8)
    report = figures([as_others, own], THRESHOLD)
    assert report["at_threshold"]["sensitivity"] == 0.5
    assert [row["found"] for row in report["per_case"]] == [1, 0]
    assert [row["false_positives"] for row in report["per_case"]] == [2, 2]
    assert [row["threshold"] for row in report["per_case"]] == [THRESHOLD, 0.8]
    assert report["location_right"]["region"]["of"] == 1
    assert report["froc"] == figures([as_others, as_others], THRESHOLD)["froc"]


def test_lesions_are_also_counted_by_how_far_they_stand_out():
    case = dataclasses.replace(evaluated([1, 5], []), conspicuity=(7.0, 2.5))  # 1 is found, 5 is not
    by_group = figures([case], THRESHOLD)["sensitivity"]
    assert by_group["stands out by 6-10 SD"] == {"found": 1, "of": 1, "interval": [1, 1]}
    assert by_group["stands out by less than 4 SD"] == {"found": 0, "of": 1, "interval": [0, 0]}
    assert by_group["3-5 mm, stands out by 4 SD or more"]["found"] == 1
    assert by_group["3-5 mm, stands out by less than 4 SD"]["found"] == 0


def test_the_figures_of_a_cohort_are_as_worked_out_by_hand():
    # Numbers 1, 2 and 3 are counted (0.91, 0.83, 0.72), 4 is excluded by anatomy, 5 lies below the threshold.
    report = figures([evaluated([1, 5], [2]), evaluated([], [])], THRESHOLD)
    point = report["at_threshold"]
    assert point["sensitivity"] == 0.5 and point["false_positives_per_case"] == 2.5
    assert point["false_positives_per_free_case"] == 3.0
    assert report["false_positives_on"] == {"vein bend": 1, NO_MIMIC: 4}
    assert report["sensitivity"]["3-5 mm"] == {"found": 1, "of": 2, "interval": [0.5, 0.5]}
    assert report["sensitivity"]["contrast 0.5-0.8"]["found"] == 1
    assert report["location_right"]["region"] == {"right": 1, "of": 1}
    assert report["location_right"]["region, elsewhere"] == {"right": 1, "of": 1}
    assert report["location_right"]["region, at a border"] == {"right": 0, "of": 0}
    assert [row["false_positives"] for row in report["per_case"]] == [2, 3]
    assert report["intervals"]["sensitivity"] == [0.5, 0.5], "one case alone has lesions"


def of_protocol(case: Evaluated, protocol: str) -> Evaluated:
    return dataclasses.replace(case, truth=case.truth | {"protocol": protocol})


def test_false_positives_are_also_counted_by_protocol():
    done = [evaluated([1], [2]), evaluated([], []), of_protocol(evaluated([], []), "1.5T")]
    counts = figures(done, THRESHOLD)["false_positives_by_protocol"]
    assert counts["1.5T"] == {"cases": 1, "false_positives": 3, "per_case_interval": [3, 3], "free_cases": 1,
                              "false_positives_on_free": 3}  # fmt: skip
    assert counts["3T-2mm"] == {"cases": 2, "false_positives": 5, "per_case_interval": [2, 3], "free_cases": 1,
                                "false_positives_on_free": 3}  # fmt: skip


def test_the_interval_of_a_group_of_lesions_is_that_of_its_share_in_cases_drawn_again():
    done = [evaluated([1], []), evaluated([5], []), evaluated([1, 5], [])]  # 1 is found, 5 is not
    low, high = figures(done, THRESHOLD)["sensitivity"]["3-5 mm"]["interval"]
    assert (low, high) == (0, 1), "all three draws may be of the first case, or of the second"
    same = [evaluated([1, 5], [])] * 3
    assert figures(same, THRESHOLD)["sensitivity"]["3-5 mm"]["interval"] == [0.5, 0.5]


SEARCHED = {
    "searched": {
        "folders": ["test2A", "test2B"], "with_phase": True,
        "detector_sha256": "0123456789abcdef", "segmenter_sha256": "fedcba9876543210",
    }
}  # fmt: skip


def test_the_page_names_every_threshold_and_lists_groups_from_small_to_large(tmp_path):
    small, large = evaluated([1, 5], []), evaluated([1, 3], [])
    for lesion, size in zip(small.truth["lesions"] + large.truth["lesions"], (2.5, 1.5, 11, 4), strict=True):
        lesion["diameter_mm"] = size
    done = [dataclasses.replace(small, threshold=0.9), dataclasses.replace(large, threshold=0.9),
            dataclasses.replace(evaluated([], []), threshold=0.8)]  # fmt: skip
    page = write_page(figures(done, 0.8) | SEARCHED | {"left_out": {}}, tmp_path).read_text(encoding="utf-8")
    assert "## At the threshold of 0.90 (1 case: 0.80)\n" in page
    groups = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if " of " in line]
    at = groups.index("below 2 mm")
    assert groups[at : at + 4] == ["below 2 mm", "2-3 mm", "3-5 mm", "5 mm or more"]


def test_the_page_of_an_evaluation_says_what_its_report_says(tmp_path):
    done = [evaluated([1, 5], [2]), of_protocol(evaluated([], []), "1.5T")]
    report = figures(done, THRESHOLD) | SEARCHED | {"left_out": {"test-case_0007": "swi.nii.gz is empty."}}
    page = write_page(report, tmp_path).read_text(encoding="utf-8")
    assert "Research use only" in page and "Left out: test-case_0007. swi.nii.gz is empty." in page
    assert "2 cases (1 without microbleeds) of 1 head (02) with 2 microbleeds" in page
    assert "Searched: test2A, test2B; SWI and phase; detector 0123456789ab, segmenter fedcba987654" in page
    assert f"## At the threshold of {THRESHOLD:.2f}\n" in page
    assert "| sensitivity, % | 50.0 | 50.0 | 50.0 |" in page, "one case alone has lesions"
    assert "| false positives per case | 2.50 [2.00, 3.00] | 2.50 |" in page
    assert "| 3-5 mm | 1 of 2 | 50.0 |" in page
    assert "| 1.5T | 1 | 3 | 3.00 | 3 in 1 |" in page
    assert "| vein bend | 1 |" in page and "| sub-region | 1 of 1 |" in page and "| deep | 0.80 |" in page
    assert "| 0.90 to 0.98 | 1 of 1 | 0 of 0 | 1 of 1 |" in page
    assert "| 0.60 to 0.89 | 0 of 0 | 1 of 1 | 0 of 0 |" in page
    assert CHARTS not in page
    (tmp_path / CHARTS).write_bytes(b"")
    assert f"]({CHARTS})" in write_page(report, tmp_path).read_text(encoding="utf-8")


def test_a_page_of_cases_without_lesions_or_mistakes_is_written_too(tmp_path):
    nothing = dataclasses.replace(evaluated([], []), candidates=())
    page = write_page(figures([nothing], THRESHOLD) | SEARCHED | {"left_out": {}}, tmp_path).read_text(encoding="utf-8")
    assert "| sensitivity, % | - | - | - |" in page and "nan" not in page and "None" not in page
    assert "kind of lesion" not in page and "most mistakes" not in page


def test_regions_right_are_also_counted_by_whether_another_one_is_near():
    found = figures([evaluated([1, 3], [])], THRESHOLD)["location_right"]  # 3 lies at the border of deep and lobar
    assert found["region, at a border"]["of"] == found["region, elsewhere"]["of"] == 1
    assert found["region"]["of"] == 2


def test_places_right_are_also_counted_by_how_probable_they_were():
    case = evaluated([1, 3], [])
    found = figures([case], THRESHOLD)["location_right_by_probability"]
    counted = {of: {name: n["of"] for name, n in bins.items() if n["of"]} for of, bins in found.items()}
    assert counted == {
        "region": {"0.90 to 0.98": 1, "0.60 to 0.89": 1},
        "sub_region": {"0.60 to 0.89": 1, "below 0.60": 1},
        "side": {"0.90 to 0.98": 2},
    }
    assert found["region"]["0.90 to 0.98"]["right"] == 1
    places = [c.location and dataclasses.replace(c.location, side_probability=math.nan) for c in case.candidates]
    moved = [dataclasses.replace(c, location=p) for c, p in zip(case.candidates, places, strict=True)]
    unknown = dataclasses.replace(case, candidates=tuple(moved))
    assert not any(n["of"] for n in figures([unknown], THRESHOLD)["location_right_by_probability"]["side"].values())


@pytest.mark.parametrize(("probability", "name"), [(0.986, "0.99 or more"), (0.984, "0.90 to 0.98"), (0, "below 0.60")])
def test_probabilities_are_counted_as_a_table_shows_them(probability: float, name: str):
    assert _by_probability([True, False], [probability, probability])[name] == {"right": 1, "of": 2}


def test_cases_without_any_lesion_still_give_a_report():
    report = figures([evaluated([], []), evaluated([], [])], THRESHOLD)
    assert report["at_threshold"]["sensitivity"] is None
    assert report["sensitivity_at_false_positives"]["4"] is None
    assert report["at_threshold"]["false_positives_per_free_case"] == 3.0
    json.dumps(report, allow_nan=False)


def test_a_second_detection_of_a_lesion_is_not_blamed_on_a_mimic():
    case = evaluated([1], [])
    first = case.truth["lesions"][0]["center_ras_mm"]
    close = tuple(
        dataclasses.replace(c, center_ras_mm=(first[0] + 1, first[1], first[2])) if c.number == 2 else c
        for c in case.candidates
    )
    report = figures([dataclasses.replace(case, candidates=close)], THRESHOLD)
    assert report["false_positives_on"] == {FOUND_TWICE: 1, NO_MIMIC: 1}


def test_charts_show_every_report_in_its_color(tmp_path):
    report = figures([evaluated([1, 5], [2]), evaluated([], [])], THRESHOLD)
    draw({"one": report}, tmp_path / "one.png")
    draw({"one": report, "other": report}, tmp_path / "two.png")
    pictures = [np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("one.png", "two.png")]
    orange = [bool((picture == (213, 94, 0)).all(axis=2).any()) for picture in pictures]
    assert orange == [False, True]
