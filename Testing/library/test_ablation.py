"""The comparison of variants: what each method finds, how they are compared, and the page."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from CMBDetectorLib import detect as detect_module
from CMBDetectorLib.__main__ import main
from CMBDetectorLib.candidate import Candidate, PhaseEvidence
from CMBDetectorLib.detect import Detection, looks, tiles
from CMBDetectorLib.errors import InputError, OutOfMemoryError
from CMBDetectorLib.evaluation import components as tiles_module
from CMBDetectorLib.evaluation import features
from CMBDetectorLib.evaluation.ablation import (
    Ablation,
    Outcome,
    _comparisons,
    ablate,
    at_equal_sensitivity,
    best_choice,
)
from CMBDetectorLib.evaluation.ablation_page import _change, write_page
from CMBDetectorLib.evaluation.blobs import find_blobs
from CMBDetectorLib.evaluation.components import components, mask_probability
from CMBDetectorLib.evaluation.evaluated import Evaluated
from CMBDetectorLib.evaluation.features import Crop, feature_vectors, level_maps
from CMBDetectorLib.evaluation.figures import figures
from CMBDetectorLib.evaluation.folders import each_case
from CMBDetectorLib.evaluation.pictures import KINDS, places, removed
from CMBDetectorLib.evaluation.prepared import PreparedCase
from CMBDetectorLib.evaluation.variants import Variant, answers, blob_variant, read_variant
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.anchors import SPACING_MM
from CMBDetectorLib.networks.detector import Detector
from CMBDetectorLib.networks.plain_unet import STRIDE, PlainUNet
from CMBDetectorLib.preprocessing import NetworkInput
from CMBDetectorLib.resources import resources_dir
from CMBDetectorLib.volume import Volume, read_volume, write_volume

ROUND, WITH_PHASE = "darkness and roundness", "darkness, roundness and phase"

SAMPLE = next((resources_dir() / "SampleData").glob("*/truth.json")).parent
MODELS = resources_dir() / "Models"
SLICES = 24

torch.set_num_threads(1)  # for tensors this small, threads cost more than they give


@pytest.fixture(autouse=True)
def small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CROP", (32, 32, 16))


def scan(shape: tuple[int, int, int], balls: list[tuple[tuple[float, float, float], float, float]]) -> NetworkInput:
    """A uniform brain with balls (center mm from voxel 0, diameter mm, value); voxel 0 at RAS (-10, -20, -30)."""
    axes = [np.arange(n) * step for n, step in zip(shape, SPACING_MM, strict=True)]
    voxel_mm = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    array = np.full((3, *shape), 0.01, np.float32)
    for center_mm, diameter_mm, value in balls:
        array[0, np.linalg.norm(voxel_mm - center_mm, axis=-1) <= diameter_mm / 2] = value
    matrix = np.diag([*SPACING_MM, 1.0])
    matrix[:3, 3] = (-10, -20, -30)
    return NetworkInput(array, matrix)


def ready(network: torch.nn.Module) -> Model:
    return Model(network.eval(), {}, torch.device("cpu"), torch.float32, "cpu")  # type: ignore[arg-type]


# --- the references


def test_the_blob_detector_finds_a_dark_ball_at_its_place_and_size_and_no_bright_one() -> None:
    found = find_blobs(scan((96, 96, 48), [((12.0, 15.0, 20.0), 4.5, -0.7), ((32.0, 30.0, 30.0), 4.5, 0.7)]))
    (strongest,) = found[ROUND]
    assert np.allclose(strongest.center_ras_mm, (2, -5, -10), atol=0.6)
    assert strongest.diameter_mm == 4.5
    assert strongest.probability == pytest.approx(0.65, abs=0.1), "about the contrast of the ball"


def test_the_blob_detector_leaves_the_dark_rim_of_the_brain_and_prefers_a_ball_to_a_tube() -> None:
    seen = scan((96, 96, 48), [((24.0, 24.0, 24.0), 4.5, -0.5)])
    across, up = np.meshgrid(np.arange(96) * 0.5 - 12, np.arange(48) - 24.0, indexing="ij")
    seen.array[0].swapaxes(0, 1)[:, np.hypot(across, up) < 1.5] = -0.7  # darker than the ball, along A
    depth_mm = np.minimum(np.arange(96), np.arange(96)[::-1]) * 0.5
    rim = np.broadcast_to(((depth_mm >= 1) & (depth_mm < 4))[:, None, None], (96, 96, 48))
    seen.array[0, rim] = -0.9  # its inner side goes deeper than what is left out
    seen.array[0, np.broadcast_to((depth_mm < 1)[:, None, None], (96, 96, 48))] = 0
    found = find_blobs(seen)[ROUND]
    assert np.allclose(found[0].center_ras_mm, (14, 4, -6), atol=0.6), "the ball comes first"
    assert all(d.probability < 0.5 * found[0].probability for d in found[1:]), "neither tube nor rim is a blob"


def test_the_phase_removes_a_blob_whose_dipole_is_diamagnetic() -> None:
    seen = scan((80, 80, 40), [((20.0, 20.0, 20.0), 4.5, -0.7)])
    axes = [np.arange(n) * step - 20 for n, step in zip((80, 80, 40), SPACING_MM, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    squared = np.maximum(x**2 + y**2 + z**2, 1)
    dipole = (3 * z**2 / squared - 1) / squared**1.5
    for sign, kept in ((1, True), (-1, False)):
        seen.array[1] = sign * dipole
        found = find_blobs(seen)
        near = [d for d in found[WITH_PHASE] if np.allclose(d.center_ras_mm, (10, 0, -10), atol=1)]
        assert bool(near) is kept
        assert np.allclose(found[ROUND][0].center_ras_mm, (10, 0, -10), atol=1)


def test_components_carry_their_place_size_and_either_score() -> None:
    mask = np.zeros((12, 12, 12), np.float32)
    mask[2:5, 2:5, 2:5] = 0.6
    mask[3, 3, 3] = 0.9
    mask[8, 8, 8], mask[9, 9, 9] = 0.4, 0.2  # touch at a corner
    matrix = np.eye(4)
    matrix[:3, 3] = (10, 0, 0)
    one, other = components(mask, matrix, 0.1, "mean")
    assert np.allclose(one.center_ras_mm, (13, 3, 3))
    assert one.diameter_mm == pytest.approx((6 / np.pi * 27) ** (1 / 3))
    assert (one.probability, other.probability) == pytest.approx(((26 * 0.6 + 0.9) / 27, 0.3))
    assert np.allclose(other.center_ras_mm, np.array([18, 8, 8]) + 1 / 3, atol=1e-5)
    assert [d.probability for d in components(mask, matrix, 0.3, "largest")] == pytest.approx([0.9, 0.4])
    assert components(mask, matrix, 0.95, "mean") == []


def test_the_mask_of_a_scan_is_the_same_as_that_of_its_only_tile() -> None:
    torch.manual_seed(0)
    network = PlainUNet()
    seen = scan((28, 32, 14), [((7.0, 8.0, 6.0), 4.5, -0.7)])
    found = mask_probability(ready(network), seen)
    padded = torch.zeros((2, 3, 32, 32, 16))
    padded[:, :, :28, :, :14] = torch.stack(looks(torch.from_numpy(seen.array)))
    with torch.no_grad():
        expected = torch.sigmoid(network.eval()(padded).mean(dim=0)).numpy()
    assert found.shape == (14, 16, 14)
    assert np.allclose(found, expected[:14, :, :14], atol=1e-5)


class Darkness(torch.nn.Module):
    """Answers its input, at 1 mm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool3d(x[:, 0], STRIDE)


def test_a_mask_of_several_tiles_has_no_seams_and_no_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_module, "tiles", partial(tiles, largest=27))
    rng = np.random.default_rng(5)
    shape = (160, 134, 61)
    seen = NetworkInput(rng.uniform(0.1, 1, (3, *shape)).astype(np.float32), np.eye(4))
    assert len(list(tiles(shape, 27))) > 4
    shown = torch.stack(looks(torch.from_numpy(seen.array)))
    expected = torch.sigmoid(Darkness()(shown).mean(dim=0)).numpy()
    assert np.allclose(mask_probability(ready(Darkness()), seen), expected, atol=1e-6)


# --- features


@pytest.mark.parametrize("ffm", [True, False])
def test_the_levels_together_are_the_detectors_own_answer(ffm: bool) -> None:
    torch.manual_seed(0)
    network = Detector(ffm)
    crop = Crop.around(scan((32, 32, 16), [((8.0, 8.0, 8.0), 4.0, -0.7)]), (-2, -12, -22))
    maps = level_maps(ready(network), crop)
    with torch.no_grad():
        logits, _ = network(crop.image[None])
    assert np.allclose(maps["fused" if ffm else "2 mm alone"], torch.sigmoid(logits[0]).amax(0), atol=1e-5)
    assert len(maps) == (4 if ffm else 1)


def test_a_crop_keeps_its_place_and_starts_where_tiles_may_start() -> None:
    seen = scan((160, 64, 64), [((60.0, 15.0, 20.0), 0.4, -0.9)])
    crop = Crop.around(seen, (50, -5, -10))
    voxel = np.unravel_index(int(crop.image[0].argmin()), crop.image.shape[1:])
    assert np.allclose(np.multiply(voxel, SPACING_MM), crop.place_mm)
    assert feature_vectors(ready(Detector()), [crop]).shape == (1, 48)


# --- the comparison


def candidate(center: tuple[float, float, float], probability: float, exclusion: str = "") -> Candidate:
    return Candidate(
        center_ras_mm=center, diameter_mm=4, volume_mm3=0, probability=probability, location=None,
        phase_evidence=PhaseEvidence.NO_PHASE, exclusion=exclusion,
    )  # fmt: skip


def case(name: str, lesions: int, *candidates: Candidate) -> Evaluated:
    """A case with lesions at R = 0, 20, 40 ... mm and a vein at A = 60 mm."""
    shared = {"diameter_mm": 4.0, "contrast": 0.7, "region": "lobar", "sub_region": 9, "side": "left"}
    truth = {
        "head": name[0], "protocol": "3T-2mm", "faint": [],
        "lesions": [{"center_ras_mm": [20.0 * n, 0, 0], **shared} for n in range(lesions)],
        "mimics": [{"center_ras_mm": [0, 60.0, 0], "kind": "vein bend", **shared}],
    }  # fmt: skip
    return Evaluated(name, truth, candidates, {"lobar": 0.9})


def outcome(name: str, *done: Evaluated, model: Model | None = None) -> Outcome:
    return Outcome(Variant(name, name, lambda seen: {}, model), "", list(done), figures(list(done), 0.5))


FIRST = outcome(
    "RPN",
    case("a1", 2, candidate((0, 0, 0), 0.9), candidate((0, 60, 0), 0.8), candidate((20, 0, 0), 0.7)),
    case("b1", 0, candidate((0, 90, 0), 0.75), candidate((0, 60, 0), 0.1)),
)
BETTER = outcome("RPN+FFM", case("a1", 2, candidate((0, 0, 0), 0.9), candidate((20, 0, 0), 0.7)),
                 case("b1", 0, candidate((0, 90, 0), 0.75)))  # fmt: skip


def test_false_positives_are_compared_at_the_sensitivity_of_the_reference() -> None:
    compared = at_equal_sensitivity(BETTER, FIRST, 1.0, resamples=50)
    assert compared["sensitivity"] == 1.0
    assert (compared["reference_false_positives"], compared["false_positives"]) == (1.0, 0.5)
    assert compared["change"] == -0.5
    worse = outcome("worse", case("a1", 2), case("b1", 0))
    missing = at_equal_sensitivity(worse, FIRST, 1.0, resamples=50)
    assert missing["false_positives"] is None and missing["change"] is None
    assert at_equal_sensitivity(FIRST, worse, 1.0, resamples=50)["change"] is None, "nothing to be equal to"


def test_more_false_positives_than_none_are_infinitely_more() -> None:
    none = outcome("none", *(case(f"{head}1", 1, candidate((0, 0, 0), 0.9)) for head in "abcd"))
    one = outcome("one", case("a1", 1, candidate((0, 60, 0), 0.95), candidate((0, 0, 0), 0.9)), *none.done[1:])
    assert at_equal_sensitivity(one, none, 1.0, resamples=50)["change"] is None
    assert at_equal_sensitivity(none, none, 1.0, resamples=50)["change"] == 0
    # Where the one false positive of the reference is not drawn, those of the other are infinitely more.
    other = outcome("other", *none.done[:3], case("d1", 1, candidate((0, 60, 0), 0.95), candidate((0, 0, 0), 0.9)))
    compared = at_equal_sensitivity(other, one, 1.0, resamples=500)
    assert (compared["change"], compared["interval"]) == (0.0, [-1.0, None])


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"sensitivity": 0.5, "false_positives": 0.2, "change": -0.5, "interval": [-1.0, None]}, "-50 [-100, ∞]"),
        ({"sensitivity": 0.5, "false_positives": 0.2, "change": None, "interval": [0.0, None]}, "+∞ [+0, ∞]"),
        ({"sensitivity": 0.5, "false_positives": None, "change": None, "interval": [None, None]}, "-"),
        ({"sensitivity": 0.0, "false_positives": 0.2, "change": None, "interval": [None, None]}, "-"),
    ],
)
def test_an_infinite_increase_is_shown_as_one_and_what_is_not_known_is_not(row: dict, shown: str) -> None:
    assert _change(row) == shown


def test_each_part_is_compared_with_the_first_and_with_what_it_was_added_to() -> None:
    network = ready(Detector())
    listed = ("U-Net", "RPN", "RPN + anatomy", "RPN+FFM", "blobs")
    outcomes = {name: outcome(name, *FIRST.done, model=network if "RPN" in name else None) for name in listed}
    pairs = list(dict.fromkeys((row["variant"], row["reference"]) for row in _comparisons(outcomes)))
    assert pairs == [
        ("RPN", "U-Net"), ("RPN + anatomy", "U-Net"), ("RPN+FFM", "U-Net"), ("blobs", "U-Net"),
        ("RPN+FFM", "RPN"), ("RPN + anatomy", "RPN"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "anatomy", "said"),
    [
        (("RPN", "RPN"), None, "'RPN' needs another name"),
        (("blob detector",), None, "'blob detector' needs another name"),
        (("RPN + anatomy",), None, r"'RPN \+ anatomy' needs another name"),
        (("RPN",), "RPM", "'RPM', to be shown with anatomy, is none of: RPN, blob detector"),
        (("RPN",), None, "cannot hold both"),
    ],
)
def test_a_comparison_that_would_mix_things_up_is_refused(
    tmp_path: Path, names: tuple[str, ...], anatomy: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        ablate(tmp_path, tmp_path, tmp_path / "out", [(name, MODELS) for name in names], anatomy=anatomy)


def test_what_a_method_leaves_open_is_decided_by_sensitivity_on_validation() -> None:
    assert best_choice({"worse": FIRST.done, "better": BETTER.done}) == "better"


def test_places_of_all_four_kinds_are_found() -> None:
    done = [case("a1", 3, candidate((0, 0, 0), 0.9), candidate((0, 90, 0), 0.8), candidate((40, 0, 0), 0.3))]
    found = {kind: [p.center_ras_mm for p in places(done, 0.5) if p.kind == kind] for kind in KINDS}
    assert found == {
        KINDS[0]: [(0, 0, 0)], KINDS[1]: [(20, 0, 0), (40, 0, 0)], KINDS[2]: [(0, 90, 0)], KINDS[3]: [(0, 60, 0)]
    }  # fmt: skip
    assert [len(places(done, 0.5, most=1)), len(places(done, 0.95))] == [4, 4]


def test_removed_candidates_are_those_excluded_at_the_threshold() -> None:
    gone = candidate((0, 0, 0), 0.9, "outside brain tissue")
    done = [case("a1", 1, gone, replace(gone, probability=0.4), candidate((50, 0, 0), 0.99))]
    assert [c for _, c in removed(done, 0.5)] == [gone]


# --- variants


def prepared(folder: Path, name: str, seen: NetworkInput) -> PreparedCase:
    """A case as the cache keeps it, half of it brain tissue."""
    made = folder / "cases" / name
    made.mkdir(parents=True)
    np.save(made / "input.npy", seen.array.astype(np.float16))
    tissue = np.zeros_like(seen.array[0], np.uint8)
    tissue[len(tissue) // 2 :] = 9
    np.savez_compressed(made / "regions.npz", regions=tissue, brain=tissue > 0, left=tissue > 0)
    matrix = seen.ijk_to_ras.tolist()
    record = {"segmenter": "0", "input_to_ras": matrix, "scan_to_ras": matrix, "left_to_ras": matrix, "dice": {}}
    (made / "case.json").write_text(json.dumps(record))
    return PreparedCase(name, {}, {}, made)


def test_a_variant_searches_a_case_once(tmp_path: Path) -> None:
    searches: list[NetworkInput] = []

    def search(seen: NetworkInput) -> dict[str, list[Detection]]:
        searches.append(seen)
        return {"open": [Detection((1.0, 2.0, 3.0), 4.0, 0.5)]}

    one = prepared(tmp_path, "a1", scan((32, 32, 16), []))
    variant = Variant("v", "key", search)
    first, second = answers(variant, one, tmp_path / "answers"), answers(variant, one, tmp_path / "answers")
    assert first == second == {"open": [Detection((1.0, 2.0, 3.0), 4.0, 0.5)]}
    assert len(searches) == 1


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "detector.pt").write_bytes(b"nothing")
    for path in (tmp_path, tmp_path / "detector.pt", tmp_path / "none.pt"):
        with pytest.raises(InputError, match=r"(detector|none)\.pt"):
            read_variant("RPN", path)


def test_answers_are_searched_anew_when_detect_py_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = blob_variant().key
    assert blob_variant().key == before
    changed = tmp_path / "detect.py"
    changed.write_bytes(Path(str(detect_module.__file__)).read_bytes() + b"# changed")
    monkeypatch.setattr(detect_module, "__file__", str(changed))
    assert blob_variant().key != before


# --- the page


def test_the_page_shows_every_variant_and_draws_what_it_can(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, fused = ready(Detector(False)), ready(Detector())
    cases = [prepared(tmp_path, name, scan((64, 64, 32), [])) for name in ("a1", "b1")]
    excluded = list(BETTER.done)
    excluded[1] = case("b1", 0, candidate((0, 0, 0), 0.75, "outside brain tissue"))
    outcomes = {
        "RPN": outcome("RPN", *FIRST.done, model=plain),
        "RPN+FFM": outcome("RPN+FFM", *BETTER.done, model=fused),
        "RPN+FFM + anatomy": outcome("RPN+FFM", *excluded, model=fused),
    }
    ends = dict.fromkeys(("0.25", "0.5", "1", "2", "4"), (0.1, None))
    content = {
        "cases": 2, "heads": ["a", "b"], "validation_cases": 3, "validation_heads": ["c"],
        "variants": {
            name: {"choice": "", "intervals_at_false_positives": ends, **found.report}
            for name, found in outcomes.items()
        },
        "at_equal_sensitivity": [
            {"variant": "RPN+FFM", "reference": "RPN", **at_equal_sensitivity(BETTER, FIRST, 1.0, resamples=20)}
        ],
    }  # fmt: skip
    page = write_page(Ablation(content, outcomes, cases), tmp_path).read_text()
    assert "| RPN+FFM | RPN | 1 | 100.0 | 1.00 | 0.50 | -50 [" in page
    for name in ("froc", "features", "levels", "removed"):
        assert f"(images/ablation-{name}.png)" in page
        with Image.open(tmp_path / "images" / f"ablation-{name}.png") as picture:
            assert min(picture.size) > 200


# --- all of it


def part_of_the_sample(folder: Path, low: int) -> Path:
    """Some slices of the sample as a case of its own, with the lesions that lie in them."""
    folder.mkdir(parents=True)
    truth = json.loads((SAMPLE / "truth.json").read_text())
    for name in ("swi", "phase", "mars"):
        volume = read_volume(SAMPLE / f"{name}.nii.gz")
        matrix = volume.ijk_to_ras.copy()
        matrix[:3, 3] = volume.ras_of((0, 0, low))
        part = Volume(np.ascontiguousarray(volume.array[:, :, low : low + SLICES]), matrix)
        write_volume(part, folder / f"{name}.nii.gz")
    for kind in ("lesions", "faint", "mimics"):
        truth[kind] = [one for one in truth[kind] if 3 < part.ijk_of(one["center_ras_mm"])[2] < SLICES - 4]
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


def test_an_ablation_searches_measures_and_writes_every_table(tmp_path: Path) -> None:
    part_of_the_sample(tmp_path / "test" / "one", 30)
    part_of_the_sample(tmp_path / "validation" / "one", 36)
    done = ablate(
        tmp_path / "test",
        tmp_path / "validation",
        tmp_path / "out",
        [("bundled", MODELS)],
        anatomy="bundled",
    )
    assert list(done.outcomes) == ["bundled", "bundled + anatomy", "blob detector"]
    lesions = len(json.loads((tmp_path / "test" / "one" / "truth.json").read_text())["lesions"])
    report = done.content["variants"]["bundled + anatomy"]
    assert (done.content["cases"], report["lesions"]) == (1, lesions)
    assert report["sensitivity_at_false_positives"]["4"] >= 0.5
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == done.content
    for table in ("variants", "strata", "cases"):
        rows = (tmp_path / "out" / f"{table}.csv").read_text().splitlines()
        assert sum(row.startswith("bundled + anatomy,") for row in rows) >= 1
    answered = sorted((tmp_path / "out" / "answers").rglob("*.json"))
    assert len(answered) == 4, "two methods, two cases"


def test_cases_are_evaluated_and_an_earlier_evaluation_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    part_of_the_sample(tmp_path / "test" / "one", 30)
    asked = ["evaluate", "--cases", str(tmp_path / "test"), "--out", str(tmp_path / "out"), "--threshold", "0.4"]
    assert main([*asked, "--json-progress"]) == 0
    *events, last = map(json.loads, capfd.readouterr().out.splitlines())
    assert events and last["event"] == "result"
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert last["report"]["at_threshold"] == report["at_threshold"]
    assert report["at_threshold"]["threshold"] == 0.4
    page = (tmp_path / "out" / "evaluation.md").read_text(encoding="utf-8")
    assert f"1 case (0 without microbleeds) of 1 head (09) with {report['lesions']} microbleeds" in page
    (row,) = csv.DictReader((tmp_path / "out" / "cases.csv").read_text().splitlines())
    lesions = len(json.loads((tmp_path / "test" / "one" / "truth.json").read_text())["lesions"])
    assert (row["case"], int(row["lesions"])) == ("test-one", lesions)
    assert lesions == report["lesions"] > 0
    assert int(row["found"]) == round(report["at_threshold"]["sensitivity"] * lesions) > 0
    assert main(asked) == 4
    assert "is there already" in capfd.readouterr().err


def test_a_case_that_cannot_be_searched_is_told_and_the_others_are_evaluated(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    part_of_the_sample(tmp_path / "test" / "one", 30)
    part_of_the_sample(tmp_path / "test" / "two", 30)
    (tmp_path / "test" / "two" / "swi.nii.gz").write_bytes(b"cut off")
    out = tmp_path / "out"
    out.mkdir()
    for earlier in ("evaluation.json", "charts.png"):
        (out / earlier).write_text("of another evaluation")
    asked = ["evaluate", "--cases", str(tmp_path / "test"), "--out", str(out), "--overwrite", "--json-progress"]
    assert main(asked) == 2
    *_, last = map(json.loads, capfd.readouterr().out.splitlines())
    assert last["event"] == "error"
    assert "1 of 2 cases could not be evaluated. The first, test-two: " in last["message"]
    assert str(tmp_path / "test" / "two" / "swi.nii.gz") in last["message"]
    assert str(out / "evaluation.json") in last["message"]
    report = json.loads((out / "evaluation.json").read_text())
    assert report["cases"] == 1 and list(report["left_out"]) == ["test-two"]
    assert not (out / "charts.png").exists()
    shutil.rmtree(tmp_path / "test" / "one")
    assert main(asked) == 2
    assert "No case could be evaluated. The first, test-two: " in capfd.readouterr().err
    assert json.loads((out / "evaluation.json").read_text()) == report


def test_regions_are_evaluated_and_told_unless_quiet(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    part_of_the_sample(tmp_path / "test" / "one", 30)
    asked = ["evaluate-regions", "--cases", str(tmp_path / "test"), "--out", str(tmp_path / "out")]
    assert main([*asked, "--quiet"]) == 0
    assert capfd.readouterr().out == ""
    content = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert content["cases"] == 1 and content["dice"]["lobar"]["mean"] > 0.7
    assert (tmp_path / "out" / "regions-test-one.png").exists()
    assert main(asked) == 4
    assert "is there already" in capfd.readouterr().err
    part_of_the_sample(tmp_path / "test" / "two", 30)
    (tmp_path / "test" / "two" / "mars.nii.gz").write_bytes(b"cut off")
    assert main([*asked, "--overwrite"]) == 2
    told = capfd.readouterr().err
    assert "1 of 2 cases could not be evaluated. The first, test-two: " in told
    assert str(tmp_path / "test" / "two" / "mars.nii.gz") in told and str(tmp_path / "out" / "regions.md") in told
    report = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert list(report.pop("left_out")) == ["test-two"] and report == {k: content[k] for k in report}
    assert "Left out: test-two. " in (tmp_path / "out" / "regions.md").read_text()


def test_one_case_that_exhausts_the_memory_does_not_lose_the_others_but_a_fault_ends_the_evaluation(
    tmp_path: Path,
) -> None:
    folders = {name: tmp_path / name for name in "abcde"}
    wrong: dict[str, Exception] = {
        "b": MemoryError(),
        "c": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
        "d": OutOfMemoryError("d.nii.gz has 500 million voxels; searching it needs 90 GB."),
        "e": RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    }

    def take(name: str, folder: Path) -> str:
        if name in wrong:
            raise wrong[name]
        return folder.name

    taken, left_out = each_case(folders, take, lambda fraction, name: None)
    assert taken == ["a"] and list(left_out) == ["b", "c", "d", "e"]
    assert left_out["d"].startswith("d.nii.gz has 500 million") and "Choose the device 'cpu'" in left_out["e"]
    assert f"does not suffice for {tmp_path / 'c' / 'swi.nii.gz'}" in left_out["c"]
    wrong["a"] = RuntimeError("size of tensor a must match")
    with pytest.raises(RuntimeError, match="tensor a"):
        each_case(folders, take, lambda fraction, name: None)
