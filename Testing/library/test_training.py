"""Training: targets, crops, augmentation, losses, and runs that go on where they stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from CMBDetectorLib.errors import Cancelled, InputError
from CMBDetectorLib.evaluation.variants import read_variant
from CMBDetectorLib.models import load_model
from CMBDetectorLib.networks import anchors
from CMBDetectorLib.networks.adapters import adapt, merged
from CMBDetectorLib.networks.blocks import Residual
from CMBDetectorLib.networks.detector import Detector
from CMBDetectorLib.networks.prototypes import CMB, MIMIC
from CMBDetectorLib.networks.segmenter import Segmenter
from CMBDetectorLib.preprocessing import spacing_channel
from CMBDetectorLib.training import data
from CMBDetectorLib.training import heads as training_heads
from CMBDetectorLib.training import segmenter as training_segmenter
from CMBDetectorLib.training.config import DetectorTraining, SegmenterTraining, Training
from CMBDetectorLib.training.data import (
    Case,
    case_name,
    cut,
    cut_thick,
    detector_batch,
    detector_input,
    draw_crop,
    load_cases,
    turn,
    vary,
)
from CMBDetectorLib.training.detector import DetectorObjective, train_detector
from CMBDetectorLib.training.export import averaged_network, export_model
from CMBDetectorLib.training.heads import Head, _veins_in_fluid, load_heads, random_sample, with_sides
from CMBDetectorLib.training.implants import (
    CALCIFICATION,
    CALCIFIED_SPOT,
    DIFFUSE_CALCIFICATION,
    DIFFUSE_MICROBLEED,
    MICROBLEED,
    RAGGED_CALCIFICATION,
    RAGGED_MICROBLEED,
    SPOT,
    VESSEL,
    Kind,
    Scan,
    implant,
)
from CMBDetectorLib.training.loop import CHECKPOINT, ahead, fit, learning_rate, start_from
from CMBDetectorLib.training.losses import hard_samples, objectness_loss, region_loss, side_loss
from CMBDetectorLib.training.segmenter import load_rendered, segmenter_batch, train_segmenter, vary_window
from CMBDetectorLib.training.slices import least_thicker_mm, with_thicker_slices
from CMBDetectorLib.training.split import PARTS, heads_of
from CMBDetectorLib.training.targets import IGNORED, NEGATIVE, POSITIVE, Lesions, assign
from CMBDetectorLib.volume import Volume, write_volume

SMALL = (32, 32, 16)
torch.set_num_threads(1)  # for tensors this small, threads cost more than they give


def silent(stage: str, share: float, message: str) -> None:
    """Progress that nobody reads."""


def lesions(*center_mm: tuple[float, float, float], diameter_mm: float = 4.0, counts: bool = True) -> Lesions:
    n = len(center_mm)
    return Lesions(np.reshape(np.array(center_mm, float), (n, 3)), np.full(n, diameter_mm), np.full(n, counts))


def toy_case(centers_mm: list[tuple[float, float, float]], shape: tuple[int, int, int], diameter_mm: float) -> Case:
    """Noise with dark balls."""
    rng = np.random.default_rng(0)
    image = 0.05 * rng.standard_normal((2, *shape))
    axes = [np.arange(n) * spacing for n, spacing in zip(shape, anchors.SPACING_MM, strict=True)]
    voxel_mm = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    for center_mm in centers_mm:
        image[0] -= 0.7 * (np.linalg.norm(voxel_mm - center_mm, axis=-1) < diameter_mm / 2)
    tissue, scan = np.zeros(shape, bool), Scan(rad_per_ppm=16.05, acquired_mm=0.5, slice_mm=2.0)
    return Case(image.astype(np.float16), lesions(*centers_mm, diameter_mm=diameter_mm), tissue, scan)


def detector_training(folder: Path, **options: object) -> DetectorTraining:
    small: dict[str, object] = {"crop": SMALL, "batch": 2, "bfloat16": False}
    folders: dict[str, object] = {"out": folder, "cases": folder, "cache": folder / "cache"}
    return DetectorTraining(**{**folders, **small, **options})  # type: ignore[arg-type]


# --- which heads


def test_no_head_is_in_two_parts() -> None:
    parts = [set(heads_of(part)) for part in PARTS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(heads_of("all")) == 15


# --- options


def test_the_configurations_in_the_documentation_can_be_used(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    shown = re.findall(r"```json\n(.+?)```", page, re.DOTALL)
    assert len(shown) == 2
    trainings: tuple[type[Training], ...] = (DetectorTraining, SegmenterTraining)
    for text, training in zip(shown, trainings, strict=True):
        (tmp_path / "run.json").write_text(text)
        assert training.from_json(tmp_path / "run.json").steps == json.loads(text)["steps"]


def test_options_are_read_from_json(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"out": "o", "cases": "c", "cache": "k", "crop": [96, 96, 32], "hspl": false}')
    config = DetectorTraining.from_json(file)
    assert (config.out, config.crop, config.hspl) == (Path("o"), (96, 96, 32), False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"out": "o", "cases": "c", "cache": "k", "epochs": 3}', "unknown option 'epochs'"),
        ('{"out": "o", "cases": "c"}', "lacks the option 'cache'"),
        ("{", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
    ],
)
def test_a_file_that_holds_no_options_of_this_run_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"run\.json .*{said}"):
        DetectorTraining.from_json(file)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ('"painted": 3', "'painted' is 3; it must be a number from 0 to 1"),
        ('"ragged": true', "'ragged' is True; it must be a number"),
        ('"diffuse": 1.5', "'diffuse' is 1.5; it must be a number from 0 to 1"),
        ('"vessels": "some"', "'vessels' is 'some'; it must be a number"),
        ('"warmup": true', "'warmup' is True; it must be a number"),
        ('"initial": "d.pt", "kept": "d1"', "'kept' is 'd1'; it must be a list of names"),
        ('"initial": "d.pt", "kept": [1]', r"'kept' is \(1,\); it must be a list of names"),
        ('"crop": [48, 48, 16]', "48 x 48 x 16"),
        ('"crop": [0, 0, 0], "bfloat16": false', "0 x 0 x 0"),
        ('"crop": [64, 64, 32]', "bfloat16 needs 96"),
        ('"crop": 128', "'crop' is 128; it must be a list of three whole numbers"),
        ('"crop": "128"', "'crop' is '128'; it must be a list of three"),
        ('"crop": [128, 128]', r"'crop' is \(128, 128\); it must be a list of three"),
        ('"crop": [128.0, 128, 64]', r"'crop' is \(128\.0, .*; it must be a list of three whole numbers"),
        ('"out": 5', "'out' is 5; it must be a path"),
        ('"out": null', "'out' is None; it must be a path"),
        ('"initial": 5', "'initial' is 5; it must be a path or null"),
        ('"loaders": "2"', "'loaders' is '2'; it must be a whole number"),
        ('"loaders": -1', "'loaders' is -1; it must be 0 or more"),
        ('"steps": "4000"', "'steps' is '4000'; it must be a whole number"),
        ('"seed": 1.5', r"'seed' is 1\.5; it must be a whole number"),
        ('"seed": -1', "'seed' is -1; it must be 0 or more"),
        ('"batch": 0', "'batch' is 0; it must be 1 or more"),
        ('"batch": true', "'batch' is True; it must be a whole number"),
        ('"hardest": 0', "'hardest' is 0; it must be a number from 1 to 98304"),
        ('"crop": [96, 96, 16], "hardest": 13825', "'hardest' is 13825; it must be a number from 1 to 13824"),
        (
            '"head": "mask", "crop": [96, 96, 16], "hardest": 4609',
            "'hardest' is 4609; it must be a number from 1 to 4608",
        ),
        ('"learning_rate": "2e-3"', "'learning_rate' is '2e-3'; it must be a number"),
        ('"learning_rate": NaN', "'learning_rate' is nan; it must be 0 or more"),
        ('"minutes": "60"', "'minutes' is '60'; it must be a number or null"),
        ('"hspl": "false"', "'hspl' is 'false'; it must be true or false"),
        ('"device": "gpu"', "'device' is 'gpu'; it must be one of auto, cpu, cuda"),
        ('"split": "training"', "'split' is 'training'; it must be one of train, validation, test, all"),
        ('"head": "boxes"', "'head' is 'boxes'; it must be one of proposals, mask"),
        ('"rank": -1', "'rank' is -1; it must be 0 or more"),
        ('"rank": 2', "'rank' is 2; adapters learn .* name it as 'initial'"),
        ('"initial": "d.pt", "head": "mask", "rank": 2', "'rank' is 2; the plain U-Net has no adapters"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, option: str, said: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(f'{{"out": "o", "cases": "c", "cache": "k", {option}}}')
    with pytest.raises(InputError, match=rf"run\.json .*{said}"):
        DetectorTraining.from_json(file)


def test_a_whole_number_may_stand_for_any_number_and_no_minutes_for_all_steps(tmp_path: Path) -> None:
    config = detector_training(tmp_path, minutes=None, learning_rate=1, box_weight=0)
    assert (config.minutes, config.learning_rate, config.box_weight) == (None, 1, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": 128}, "'window' is 128"),
        ({"window": (0, 16, 8), "bfloat16": False}, "multiples of 16, 16 and 8"),
        ({"patch": (192, 31, 80)}, "must be 32 or more along R and A"),
        ({"rendered": 1.5}, r"'rendered' is 1\.5; it must be a number from 0 to 1"),
    ],
)
def test_a_wrong_option_of_the_segmenter_is_named(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SegmenterTraining(out=tmp_path, cases=tmp_path, cache=tmp_path, **options)


def test_options_in_a_file_that_is_not_there_are_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json cannot be opened: No such file"):
        DetectorTraining.from_json(tmp_path / "run.json")


def test_a_segmenter_window_that_bfloat16_cannot_train_on_is_refused(tmp_path: Path) -> None:
    SegmenterTraining(out=tmp_path, cases=tmp_path, cache=tmp_path, window=(32, 64, 32), bfloat16=False)
    with pytest.raises(InputError, match="bfloat16 needs 48"):
        SegmenterTraining(out=tmp_path, cases=tmp_path, cache=tmp_path, window=(32, 64, 32))


def test_the_learning_rate_rises_then_falls(tmp_path: Path) -> None:
    config = detector_training(tmp_path, steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert np.argmax(rates) in (9, 10)
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.02
    assert all(np.diff(rates[10:]) < 0)


# --- targets


def test_a_lesion_teaches_the_closest_anchor_around_its_center() -> None:
    label, boxes, _ = assign((16, 16, 16), lesions((15.3, 14.2, 16.1), diameter_mm=4.5))
    distance_mm = np.linalg.norm(anchors.cell_centers_mm((16, 16, 16)) - (15.3, 14.2, 16.1), axis=-1)
    assert np.array_equal(label[1] == POSITIVE, distance_mm <= 1.8)
    assert not (label[[0, 2]] == POSITIVE).any()
    assert (label[:, (distance_mm > 1.8) & (distance_mm <= 4.75)] == IGNORED).all()
    assert (label[:, distance_mm > 4.75] == NEGATIVE).all()
    logits = torch.from_numpy(np.where(label == POSITIVE, 5.0, -5.0))
    _, center_mm, diameter_mm = anchors.decode(logits, torch.from_numpy(boxes), 0.5)
    assert np.allclose(center_mm, (15.3, 14.2, 16.1), atol=1e-5)
    assert np.allclose(diameter_mm, 4.5)


def test_every_lesion_has_a_cell_even_where_lesions_touch() -> None:
    label, boxes, _ = assign((8, 8, 8), lesions((7.0, 7.0, 7.0), (9.5, 7.0, 7.0), diameter_mm=2.0))
    logits = torch.from_numpy(np.where(label == POSITIVE, 5.0, -5.0))
    _, center_mm, _ = anchors.decode(logits, torch.from_numpy(boxes), 0.5)
    assert set(np.round(center_mm[:, 0], 3)) == {7.0, 9.5}


def test_a_faint_lesion_is_neither_taught_nor_punished() -> None:
    label, _, _ = assign((8, 8, 8), lesions((7.0, 7.0, 7.0), diameter_mm=0.0, counts=False))
    assert not (label == POSITIVE).any()
    assert (label == IGNORED).any()


def test_a_crop_without_lesions_is_negative_everywhere() -> None:
    label, boxes, _ = assign((4, 4, 4), lesions())
    assert (label == NEGATIVE).all()
    assert not boxes.any()


@pytest.mark.parametrize("diameter_mm", [2.0, 4.0, 9.0])
def test_the_cells_of_a_lesion_share_one_weight(diameter_mm: float) -> None:
    label, _, weight = assign((16, 16, 16), lesions((15.3, 14.2, 16.1), (4.2, 25.0, 8.0), diameter_mm=diameter_mm))
    assert weight.sum() == pytest.approx(2)
    assert ((weight > 0) == (label == POSITIVE)).all()


# --- crops


@pytest.mark.parametrize("seed", range(16))
def test_turning_moves_centers_with_their_voxels(seed: int) -> None:
    voxel = (5, 20, 3)
    image = np.zeros((2, *SMALL), np.float32)
    image[(0, *voxel)] = 1
    center_mm = tuple(np.multiply(voxel, anchors.SPACING_MM))
    turned, moved = turn(image, lesions((center_mm[0], center_mm[1], center_mm[2])), np.random.default_rng(seed))
    found = np.unravel_index(turned[0].argmax(), SMALL)
    assert np.allclose(moved.center_mm[0], np.multiply(found, anchors.SPACING_MM))


def test_turning_reaches_all_sixteen_poses() -> None:
    image = np.arange(2 * 32 * 32 * 16, dtype=np.float32).reshape(2, *SMALL)
    poses = {turn(image, lesions(), np.random.default_rng(seed))[0].tobytes() for seed in range(200)}
    assert len(poses) == 16


@pytest.mark.parametrize("center_mm", [(10.0, 20.0, 15.0), (0.0, 0.0, 0.0), (99.0, 99.0, 99.0)])
def test_a_crop_keeps_lesions_at_their_voxels(center_mm: tuple[float, float, float]) -> None:
    case = toy_case([(10.0, 20.0, 15.0)], (40, 70, 30), diameter_mm=3)
    case.image[:] = 0
    case.image[0, 20, 40, 15] = 1
    crop = cut(case, np.array(center_mm), SMALL)
    image, inside = crop.image, crop.lesions
    for mm, counts in zip(inside.center_mm, inside.counts, strict=True):
        voxel = np.round(mm / anchors.SPACING_MM).astype(int)
        assert counts == bool(((voxel >= 0) & (voxel < SMALL)).all())
        assert image[(0, *voxel)] == 1 if counts else image.max() == 0


def test_a_case_smaller_than_the_crop_is_filled_with_zeros() -> None:
    case = toy_case([(4.0, 4.0, 4.0)], (20, 20, 10), diameter_mm=3)
    crop = cut(case, np.array([4.0, 4.0, 4.0]), SMALL)
    image, inside = crop.image, crop.lesions
    assert image.shape == (2, *SMALL)
    assert np.array_equal(np.sort(image[image != 0]), np.sort(case.image[case.image != 0].astype(np.float32)))
    assert inside.present


def test_half_of_a_batch_holds_lesions_and_half_does_not(tmp_path: Path) -> None:
    case = toy_case([(8.0, 8.0, 8.0)], (96, 96, 48), diameter_mm=4)
    config = detector_training(tmp_path, batch=4)
    for step in range(5):
        batch = detector_batch([case], config, step)
        assert batch["with_lesions"].tolist() == [True, True, False, False]
        assert ((batch["label"] == POSITIVE).flatten(1).any(1) == batch["with_lesions"]).all()


def test_some_lesion_free_crops_lie_around_mimics(tmp_path: Path) -> None:
    empty = toy_case([], (96, 96, 48), diameter_mm=4)
    image = np.array(empty.image)
    image[0] = 0.01
    image[0, 80, 80, 40] = 1
    case = replace(empty, image=image, mimics_mm=(np.array([[40.0, 40.0, 40.0]]),))
    rng = np.random.default_rng(0)
    crops = [
        draw_crop([case], detector_training(tmp_path, thickened=0.0), rng, with_lesions=False, has_phase=True).image
        for _ in range(40)
    ]
    assert sum(crop.max() == 1 for crop in crops) >= 10


def test_variation_leaves_the_outside_of_the_brain_at_zero() -> None:
    image = np.zeros((2, *SMALL), np.float32)
    image[:, 8:24, 8:24, 4:12] = 0.1
    for seed in range(10):
        varied = vary(image, seed % 2 == 0, np.random.default_rng(seed))
        assert not varied[:, image[0] == 0].any()
        assert np.abs(varied).max() <= 1


def test_the_share_of_crops_without_phase_is_as_asked(tmp_path: Path) -> None:
    case = toy_case([(8.0, 8.0, 8.0)], (64, 64, 32), diameter_mm=4)
    image = np.array(case.image)
    image[:] = 0.1
    config = detector_training(tmp_path, without_phase=0.3)
    full = replace(case, image=image)
    empty = [not crop[1].any() for step in range(60) for crop in detector_batch([full], config, step)["image"].numpy()]
    assert 0.2 < np.mean(empty) < 0.4


def all_tissue(case: Case) -> Case:
    """The case, smooth and all of it tissue, so that lesions can be put in."""
    image = np.array(case.image)
    image[0] = 0.01
    return replace(case, image=image, tissue=np.ones(image.shape[1:], bool))


def test_half_of_the_crops_with_lesions_show_ones_that_were_put_in(tmp_path: Path) -> None:
    case = all_tissue(toy_case([], (96, 96, 48), diameter_mm=4))
    rng = np.random.default_rng(0)
    config = detector_training(tmp_path, implanted=0.5, vessels=0.0)
    drawn = [draw_crop([case], config, rng, with_lesions=True, has_phase=True) for _ in range(40)]
    shown = [crop for crop in drawn if crop.lesions.present]
    assert 8 <= len(shown) <= 28
    assert all(crop.image[0].min() < -0.2 for crop in shown)


def test_an_implant_lies_in_the_slices_of_its_scan_wherever_the_crop_begins(tmp_path: Path) -> None:
    empty = all_tissue(toy_case([], (96, 96, 64), diameter_mm=4))
    tissue = np.zeros(empty.image.shape[1:], bool)
    tissue[48, 48, 31] = True
    case = replace(empty, tissue=tissue, scan=replace(empty.scan, slice_mm=3.0))
    config = detector_training(tmp_path, crop=(64, 64, 48), thickened=0.0)
    changes = []
    for center_mm in (30.0, 31.0, 32.0):  # the crop begins one voxel later each time
        center = np.array([24.0, 24.0, center_mm])
        plain, rng = cut(case, center, config.crop), np.random.default_rng(4)
        shown = cut_thick(case, center, config, rng).with_implants(MICROBLEED, 1, rng)
        assert (len(shown.lesions.center_mm), shown.scan.slice_mm) == (1, 3.0)
        first = round(center_mm) - 24
        changes.append((shown.image - plain.image)[..., 31 - first - 6 : 31 - first + 7])
    assert np.abs(changes[0][0]).max() > 0.2
    # The filter of the phase is drawn for each implant, and the noise of its place is the same.
    assert np.allclose(changes[0], changes[1], atol=2e-3) and np.allclose(changes[0], changes[2], atol=2e-3)


@pytest.mark.parametrize("own_mm", [1.2, 1.5, 2.0])
@pytest.mark.parametrize("slice_mm", [3.75, 4.2])
def test_thicker_slices_blur_as_much_as_a_scan_of_them_whatever_its_own(own_mm: float, slice_mm: float) -> None:
    # The mean over all places of the slices is a bell around the dot, whose variance is known.
    length = 80
    around_mm = np.arange(length) - length // 2
    own = np.clip(own_mm / 2 + 0.5 - np.abs(around_mm), 0, 1)  # a box of the slice, in voxels of 1 mm
    own_scan = np.convolve(own / own.sum(), np.maximum(0, 1 - np.abs(np.arange(-5, 6)) / own_mm), "same")
    image = np.full((2, 1, 1, length), 0.2, np.float32)
    image[0, 0, 0] += (own_scan / own_scan.sum()).astype(np.float32)
    offsets = np.arange(0, slice_mm, 0.05)
    dot = np.mean([with_thicker_slices(image, own_mm, slice_mm, -offset)[0, 0, 0] - 0.2 for offset in offsets], axis=0)
    before, after = (
        (part * around_mm**2).sum() / part.sum() - ((part * around_mm).sum() / part.sum()) ** 2
        for part in (image[0, 0, 0] - 0.2, dot)
    )
    window = max(slice_mm**2 - 3 * own_mm**2 - 1, 1)
    assert dot.sum() == pytest.approx(1, abs=0.01)
    assert after == pytest.approx(before + window / 12 + 1 / 12 + slice_mm**2 / 6, rel=0.02)
    assert after == pytest.approx(slice_mm**2 / 4, rel=0.08)  # as the scan with thicker slices


def test_thicker_slices_are_means_and_steps_between_them() -> None:
    image = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 3, 3, 24)).astype(np.float32)
    own_mm = np.sqrt((16 - 9 - 1) / 3)  # leaves a window of 3 mm
    thick = with_thicker_slices(image, own_mm, 4.0, 2.0)  # centers at 2, 6, 10, ...
    assert np.allclose(thick[0, ..., 6], image[0, ..., 5:8].mean(axis=-1), atol=1e-5)
    assert np.allclose(thick[0, ..., 7], 0.75 * thick[0, ..., 6] + 0.25 * thick[0, ..., 10], atol=1e-5)


@pytest.mark.parametrize("offset_mm", [0.0, 0.7, 1.6, 2.9, 4.1])
def test_thicker_slices_leave_a_uniform_brain_as_it_is_up_to_its_edge(offset_mm: float) -> None:
    image = np.full((2, 4, 4, 24), -0.4, np.float32)
    image[:, 0], image[..., :6], image[..., 19:] = 0, 0, 0
    thick = with_thicker_slices(image, 1.5, 4.2, -offset_mm)
    assert np.allclose(thick, image, atol=1e-5)


def test_phase_at_the_wrap_keeps_its_size_in_thicker_slices() -> None:
    image = np.full((2, 4, 4, 24), 0.1, np.float32)
    image[1, ..., ::2], image[1, ..., 1::2] = 0.98, -0.98  # of pi: the same angle but for a little
    assert (np.abs(with_thicker_slices(image, 1.2, 4.0, -0.5)[1]) > 0.95).all()


def test_a_crop_made_thick_says_so_and_does_not_teach_what_was_there(tmp_path: Path) -> None:
    case = all_tissue(toy_case([(20.0, 20.0, 20.0)], (96, 96, 64), diameter_mm=4))
    config = detector_training(tmp_path, crop=(64, 64, 48), thickened=0.5)
    center_mm = np.array([24.0, 24.0, 31.0])
    shown = [cut_thick(case, center_mm, config, np.random.default_rng(seed)) for seed in range(16)]
    made_thick = [crop.scan.slice_mm > 2 for crop in shown]
    assert 3 <= sum(made_thick) <= 13
    assert all(least_thicker_mm(2.0) <= crop.scan.slice_mm <= 4.2 for crop in shown if crop.scan.slice_mm > 2)
    assert [not crop.lesions.present for crop in shown] == made_thick


def test_slices_that_are_thick_already_are_left_as_they_are(tmp_path: Path) -> None:
    case = all_tissue(toy_case([], (96, 96, 64), diameter_mm=4))
    thick = replace(case, scan=replace(case.scan, slice_mm=3.0))
    config = detector_training(tmp_path, crop=(64, 64, 48), thickened=1.0)
    center_mm = np.array([24.0, 24.0, 31.0])
    shown = [cut_thick(thick, center_mm, config, np.random.default_rng(seed)) for seed in range(8)]
    assert {crop.scan.slice_mm for crop in shown} == {3.0}


def test_an_implant_lies_in_the_slices_of_a_crop_made_thick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = all_tissue(toy_case([], (96, 96, 64), diameter_mm=4))
    config = detector_training(tmp_path, crop=(64, 64, 48), thickened=1.0)
    slices: list[tuple[float, float]] = []

    def thicker(image: np.ndarray, own_mm: float, slice_mm: float, first_slice_mm: float) -> np.ndarray:
        slices.append((slice_mm, first_slice_mm))
        return with_thicker_slices(image, own_mm, slice_mm, first_slice_mm)

    def put_in(*given: Any, **options: Any) -> tuple[np.ndarray, Lesions]:
        slices.append((given[4].slice_mm, options["first_slice_mm"]))
        return implant(*given, **options)

    monkeypatch.setattr(data, "with_thicker_slices", thicker)
    monkeypatch.setattr(data, "implant", put_in)
    rng = np.random.default_rng(0)
    shown = cut_thick(case, np.array([24.0, 24.0, 31.0]), config, rng).with_implants(MICROBLEED, 1, rng)
    assert len(shown.lesions.center_mm) == 1
    assert slices[0] == slices[1]
    assert slices[0][0] == shown.scan.slice_mm


def test_the_third_channel_is_the_spacing_of_the_slices_in_the_brain(tmp_path: Path) -> None:
    case = toy_case([(8.0, 8.0, 8.0)], (64, 64, 32), diameter_mm=4)
    image = np.array(case.image)
    image[:, :, :20] = 0
    thick = replace(case, image=image, scan=replace(case.scan, slice_mm=4.0))
    shown = detector_batch([thick], detector_training(tmp_path, thickened=0.0), 0)["image"]
    assert (shown[:, 0] == 0).any()
    assert torch.equal(shown[:, 2], 0.5 * (shown[:, 0] != 0))


def test_training_tells_the_spacing_as_the_search_does(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[0], slice_mm=3.0)
    config = detector_training(tmp_path, thickened=0.0, crop=(64, 64, 32))
    shown = detector_batch(load_cases(config, silent), config, 0)["image"][:, 2]
    searched = detector_input(tmp_path / "a").array[2]
    assert shown.max() == pytest.approx(np.log2(1.5) / 2)
    assert np.allclose(shown[shown != 0].unique(), np.unique(searched[searched != 0]))


def test_training_tells_the_spacing_that_a_crop_was_made_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = toy_case([], (96, 96, 64), diameter_mm=4)
    shown_mm = []

    def thicker(image: np.ndarray, own_mm: float, slice_mm: float, first_slice_mm: float) -> np.ndarray:
        shown_mm.append(slice_mm)
        return with_thicker_slices(image, own_mm, slice_mm, first_slice_mm)

    monkeypatch.setattr(data, "with_thicker_slices", thicker)
    config = detector_training(tmp_path, thickened=1.0, calcified=0.0, implanted=0.0, batch=4)
    told = detector_batch([case], config, 0)["image"][:, 2]
    assert len(shown_mm) == 4
    assert np.allclose(told.amax(dim=(1, 2, 3)), [spacing_channel(mm) for mm in shown_mm])


def test_calcifications_come_only_into_crops_whose_phase_can_tell_them(tmp_path: Path) -> None:
    case = all_tissue(toy_case([], (96, 96, 48), diameter_mm=4))
    config = detector_training(tmp_path, calcified=1.0, vessels=0.0)
    for has_phase in (True, False):
        rng = np.random.default_rng(0)
        crop = draw_crop([case], config, rng, with_lesions=False, has_phase=has_phase)
        assert not crop.lesions.present
        assert bool(crop.image[0].min() < -0.05) is has_phase


@pytest.mark.parametrize(
    ("painted", "ragged", "diffuse", "bleeds", "calcium"),
    [
        (0.0, 0.0, 0.0, MICROBLEED, CALCIFICATION),
        (0.0, 1.0, 1.0, RAGGED_MICROBLEED, RAGGED_CALCIFICATION),
        (0.0, 0.0, 1.0, DIFFUSE_MICROBLEED, DIFFUSE_CALCIFICATION),
        (1.0, 1.0, 1.0, SPOT, CALCIFIED_SPOT),
    ],
    ids=["round", "ragged", "diffuse", "painted"],
)
@pytest.mark.parametrize("with_lesions", [True, False])
def test_what_is_put_in_is_of_the_kind_asked_for_and_only_vessels_may_cross_mimics(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    painted: float,
    ragged: float,
    diffuse: float,
    bleeds: Kind,
    calcium: Kind,
    with_lesions: bool,
) -> None:
    put_in: list[tuple[Kind, int]] = []

    def recorder(*given: Any, **options: Any) -> tuple[np.ndarray, Lesions]:
        put_in.append((options["kind"], len(given[3])))
        return implant(*given, **options)

    monkeypatch.setattr(data, "implant", recorder)
    case = replace(all_tissue(toy_case([], (96, 96, 48), diameter_mm=4)), mimics_mm=(np.array([[90.0, 90.0, 90.0]]),))
    config = detector_training(
        tmp_path, painted=painted, ragged=ragged, diffuse=diffuse, vessels=1.0, implanted=1.0, calcified=1.0
    )
    draw_crop([case], config, np.random.default_rng(0), with_lesions=with_lesions, has_phase=True)
    assert put_in[0] == (bleeds if with_lesions else calcium, 1)
    assert put_in[-1] == (VESSEL, 0)


@pytest.mark.parametrize("share", ["ragged", "diffuse"])
def test_where_a_kind_of_source_is_not_asked_for_nothing_is_drawn_for_it(tmp_path: Path, share: str) -> None:
    case = replace(all_tissue(toy_case([], (96, 96, 48), diameter_mm=4)), mimics_mm=(np.array([[24.0, 24.0, 24.0]]),))
    usual, none_asked, asked = (  # painted crops have never drawn for it
        draw_crop(
            [case],
            detector_training(tmp_path, painted=painted, calcified=0.0, vessels=0.0, thickened=0.0, **{share: wanted}),
            np.random.default_rng(0),
            with_lesions=False,
            has_phase=True,
        )
        for painted, wanted in ((1.0, 0.0), (0.0, 0.0), (0.0, 0.5))
    )
    assert none_asked.mimics_mm.tolist() == usual.mimics_mm.tolist() != []
    assert none_asked.mimics_mm.tolist() != asked.mimics_mm.tolist()


def test_the_share_of_crops_with_painted_vessels_is_as_asked(tmp_path: Path) -> None:
    case = all_tissue(toy_case([], (96, 96, 48), diameter_mm=4))
    config = detector_training(tmp_path, calcified=0.0, thickened=0.0, vessels=0.5)
    rng = np.random.default_rng(0)
    crops = [draw_crop([case], config, rng, with_lesions=False, has_phase=True) for _ in range(40)]
    assert 10 <= sum(crop.image[0].min() < -0.1 for crop in crops) <= 28
    assert not any(crop.lesions.present for crop in crops)


def test_a_batch_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    case = all_tissue(toy_case([(8.0, 8.0, 8.0)], (64, 64, 32), diameter_mm=4))
    config = detector_training(tmp_path)
    once, again, later = (detector_batch([case], config, step)["image"] for step in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, later)


# --- simulated cases from disk


def write_case(folder: Path, head: str, sign: int = 1, slice_mm: float = 2.0) -> None:
    """A ball of brain with a dark dot at RAS (4, 6, 9) mm, whose phase is positive where `sign` is.

    With slices other than of 2 mm ball and dot are stretched.
    """
    matrix = np.diag([1.0, 1.0, slice_mm, 1.0])
    matrix[:3, 3] = (-20, -20, -20)
    axes = [np.arange(n) * step - 20 for n, step in zip((41, 41, 21), (1, 1, 2), strict=True)]
    radius_mm = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    brain = radius_mm < 17
    swi = np.where(brain, 800, 700).astype(np.int16)
    swi[24, 26, 14:16] = 100
    phase = np.zeros(swi.shape, np.int16)
    phase[24, 26, 14:16] = 2000 * sign
    phase[0, 0, 0], phase[0, 0, 1] = -4096, 4095
    folder.mkdir()
    for name, array in (("swi", swi), ("phase", phase), ("mars", (9 * brain).astype(np.uint8))):
        write_volume(Volume(array, matrix), folder / f"{name}.nii.gz")
    dot = {"center_ras_mm": [4.0, 6.0, 9.0], "diameter_mm": 2.5}
    truth = {
        "head": head,
        "paramagnetic_sign": sign,
        "field_t": 3.0,
        "echo_time_ms": 20.0,
        "acquired_mm": 0.6,
        "mask_power": 4,
        "lesions": [dot],
        "faint": [],
        "mimics": [],
    }
    (folder / "truth.json").write_text(json.dumps(truth))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_simulated_case_is_loaded_with_its_lesion_in_place_and_its_phase_paramagnetic(
    tmp_path: Path, sign: int
) -> None:
    write_case(tmp_path / "a", heads_of("train")[0], sign)
    (case,) = load_cases(detector_training(tmp_path), silent)
    voxel = tuple(np.round(case.lesions.center_mm[0] / anchors.SPACING_MM).astype(int))
    near = tuple(slice(v - 2, v + 3) for v in voxel)
    assert case.lesions.present
    assert case.image[0][near].min() == case.image[0].min() < -0.5
    assert case.image[1][near].max() > 0.2


def test_preprocessing_is_done_once(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    (first,) = load_cases(detector_training(tmp_path), silent)
    (tmp_path / "a" / "swi.nii.gz").unlink()
    (second,) = load_cases(detector_training(tmp_path), silent)
    assert np.array_equal(first.image, second.image)


def test_tissue_and_regions_lie_where_the_scan_shows_the_brain(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[0], slice_mm=3.0)
    (case,) = load_cases(detector_training(tmp_path), silent)
    segmenter = SegmenterTraining(out=tmp_path, cases=tmp_path, cache=tmp_path / "cache")
    (scan,) = load_rendered(segmenter, silent)
    for shown, known in ((case.image[0] != 0, case.tissue), (scan.channels[0] > 0, scan.label > 0)):
        assert np.allclose(np.argwhere(shown).mean(axis=0), np.argwhere(known).mean(axis=0), atol=0.5)
        assert (known & shown).sum() > 0.95 * known.sum() > 0


@pytest.mark.parametrize("other", ["beside", "in its place"])
def test_another_case_of_the_same_name_is_prepared_anew(tmp_path: Path, other: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_case(tmp_path / "one" / "a", heads_of("train")[0])
    made = (tmp_path / "one" / "a" / "truth.json").stat().st_mtime
    detector = detector_training(tmp_path, cases=tmp_path / "one")
    segmenter = SegmenterTraining(out=tmp_path, cases=tmp_path / "one", cache=tmp_path / "cache")
    (first,), (first_scan,) = load_cases(detector, silent), load_rendered(segmenter, silent)
    if other == "beside":
        write_case(tmp_path / "two" / "a", heads_of("train")[0], -1, slice_mm=3.0)
        detector = replace(detector, cases=tmp_path / "two")
        segmenter = replace(segmenter, cases=tmp_path / "two")
    else:
        shutil.rmtree(tmp_path / "one" / "a")
        write_case(tmp_path / "one" / "a", heads_of("train")[0], -1, slice_mm=3.0)
    os.utime(detector.cases / "a" / "truth.json", (made, made))  # no younger than what was prepared
    (second,), (second_scan,) = load_cases(detector, silent), load_rendered(segmenter, silent)
    assert second.image.shape[3] > first.image.shape[3]
    assert second.tissue.shape[2] > first.tissue.shape[2]
    assert second.scan.slice_mm == 3.0
    assert second_scan.label.shape[2] > first_scan.label.shape[2]
    assert second_scan.channels.shape[3] > first_scan.channels.shape[3]


@pytest.mark.parametrize("key", ["head", "lesions", "acquired_mm", "paramagnetic_sign"])
def test_a_truth_that_lacks_something_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    file = tmp_path / "a" / "truth.json"
    truth = json.loads(file.read_text())
    del truth[key]
    file.write_text(json.dumps(truth))
    with pytest.raises(InputError, match=rf"truth\.json lacks '{key}'"):
        load_cases(detector_training(tmp_path), silent)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"field_t": "3"}, "has '3' as 'field_t', which must be a number"),
        ({"paramagnetic_sign": None}, "has None as 'paramagnetic_sign', which must be a number"),
        ({"lesions": [{"center_ras_mm": [4, 6, 9], "diameter_mm": 0}]}, "has 0 as 'diameter_mm' of lesions 1"),
        ({"faint": [{"center_ras_mm": [4, 6, 9]}]}, "lacks 'diameter_mm' of faint 1"),
        ({"mimics": [{"center_ras_mm": [4, 6, 9]}]}, "lacks 'kind' of mimics 1"),
    ],
)
def test_a_truth_that_training_cannot_use_is_refused_before_any_case_is_prepared(
    tmp_path: Path, change: dict, told: str
) -> None:
    for name, head in zip("ab", heads_of("train"), strict=False):
        write_case(tmp_path / name, head)
    file = tmp_path / "b" / "truth.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    config = detector_training(tmp_path)
    with pytest.raises(InputError, match=told):
        load_cases(config, silent)
    assert not config.cache.exists()


@pytest.mark.parametrize("loaders", [0, 2])
def test_batches_are_the_same_whoever_prepares_them(tmp_path: Path, loaders: int) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    write_case(tmp_path / "b", heads_of("train")[1])
    config = detector_training(tmp_path, steps=5)
    make = partial(detector_batch, load_cases(config, silent), config)
    found = list(ahead(make, 2, replace(config, loaders=loaders), torch.device("cpu")))
    assert len(found) == 3
    for step, batch in enumerate(found, start=2):
        assert all(torch.equal(batch[name], expected) for name, expected in make(step).items())


def test_cases_prepared_in_two_processes_are_those_prepared_in_one(tmp_path: Path) -> None:
    for name, head in zip("ab", heads_of("train"), strict=False):
        write_case(tmp_path / name, head)
    configs = [
        replace(detector_training(tmp_path), loaders=loaders, cache=tmp_path / f"cache {loaders}") for loaders in (1, 2)
    ]
    for one, two in zip(*(load_cases(config, silent) for config in configs), strict=True):
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.tissue, two.tissue)
        assert one.scan == two.scan


def test_a_run_whose_processes_are_all_told_to_end_leaves_its_checkpoint(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
import torch
from CMBDetectorLib.interruption import raise_on_termination
from CMBDetectorLib.training.config import Training
from CMBDetectorLib.training.loop import fit

class Line(torch.nn.Linear):
    def forward(self, batch):
        return {{"loss": super().forward(batch["x"]).square().mean()}}

raise_on_termination()
out = Path({str(tmp_path)!r})
config = Training(out=out, cases=out, cache=out, steps=10**6, batch=1, loaders=2, device="cpu", bfloat16=False)
say = lambda stage, share, message: print(message, flush=True)
fit(Line(3, 3), lambda step: {{"x": torch.ones(1, 3)}}, config, say)
"""
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    for _ in range(50):  # steps, so that both loaders work
        run.stdout.readline()
    os.killpg(run.pid, signal.SIGTERM)
    try:
        errors = run.communicate(timeout=60)[1]
    finally:
        run.kill()
    assert (tmp_path / CHECKPOINT).exists(), errors
    assert "KeyboardInterrupt" in errors


def test_cases_of_other_heads_are_left_out(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("test")[0])
    with pytest.raises(InputError, match="no simulated case"):
        load_cases(detector_training(tmp_path), silent)


# --- losses


def test_objectness_costs_little_when_right_and_ignores_what_is_ignored() -> None:
    label, weight = torch.zeros(1, 3, 4, 4, 4, dtype=torch.int8), torch.zeros(1, 3, 4, 4, 4)
    label[0, 0, 1, 1, 1], label[0, 0, 2, 2, 2] = POSITIVE, IGNORED
    weight[0, 0, 1, 1, 1] = 1
    right = torch.full(label.shape, -12.0)
    right[0, 0, 1, 1, 1] = right[0, 0, 2, 2, 2] = 12.0
    wrong = right.clone()
    wrong[0, 0, 1, 1, 1] = -12.0
    assert objectness_loss(right, label, weight, 4).item() < 1e-4
    assert objectness_loss(wrong, label, weight, 4).item() == pytest.approx(12, rel=0.01)


def test_a_missed_small_lesion_costs_as_much_as_a_missed_large_one() -> None:
    costs = []
    for missed in (0, 1):
        centers, diameters_mm = np.array([[8.0, 8.0, 8.0], [24.0, 24.0, 24.0]]), np.array([2.2, 9.0])
        label, _, weight = (
            torch.from_numpy(array) for array in assign((16, 16, 16), Lesions(centers, diameters_mm, np.ones(2, bool)))
        )
        logits = torch.where(label == POSITIVE, 12.0, -12.0)
        cell_mm = torch.from_numpy(anchors.cell_centers_mm((16, 16, 16)))
        around = torch.linalg.vector_norm(cell_mm - torch.from_numpy(centers[missed]), dim=-1) < 6
        costs.append(objectness_loss(logits.masked_fill(around, -12.0), label, weight, 4).item())
    assert costs[0] == pytest.approx(costs[1], rel=1e-3)
    assert costs[0] == pytest.approx(6, rel=0.01)  # one of two lesions


def test_the_hard_sample_of_a_lesion_free_crop_is_its_most_probable_cell() -> None:
    features = torch.randn(2, 5, 3, 3, 3)
    logits, label = torch.randn(2, 3, 3, 3, 3), torch.zeros(2, 3, 3, 3, 3, dtype=torch.int8)
    label[0, 1, 0, 2, 1] = POSITIVE
    logits[0, 0, 0, 0, 0] = 90  # in the crop with a lesion: no mimic is taken from it
    logits[1, 2, 2, 0, 1] = 50
    vectors, kind = hard_samples(features, logits, label, torch.tensor([True, False]))
    assert kind.tolist() == [CMB, MIMIC]
    assert torch.equal(vectors, torch.stack((features[0, :, 0, 2, 1], features[1, :, 2, 0, 1])))


def test_region_loss_vanishes_for_the_truth_only() -> None:
    label = torch.randint(0, 14, (1, 4, 4, 4))
    sure = 30.0 * torch.nn.functional.one_hot(label, 14).movedim(-1, 1)
    assert region_loss(sure, label).item() < 1e-4
    assert region_loss(sure.roll(1, dims=1), label).item() > 10


def test_the_side_counts_inside_the_brain_only() -> None:
    logit = torch.tensor([20.0, -20.0]).reshape(1, 2, 1, 1)
    left = torch.ones(1, 2, 1, 1)
    assert side_loss(logit, left, torch.tensor([5, 0]).reshape(1, 2, 1, 1)).item() < 1e-6


# --- runs


def test_a_detector_learns_dark_balls_and_finds_them_within_a_millimeter_and_a_half(tmp_path: Path) -> None:
    centers = [(7.3, 8.9, 6.2), (10.2, 5.1, 9.4)]
    cases = [*(toy_case([center], SMALL, 4.0) for center in centers), toy_case([], SMALL, 4.0)]
    config = detector_training(tmp_path, steps=80, learning_rate=2e-3, average=0.8)
    torch.manual_seed(0)
    objective = DetectorObjective(config)
    labels, boxes, weights = zip(*(assign((8, 8, 8), case.lesions) for case in cases), strict=True)
    spacing = np.zeros((1, *SMALL))
    batch = {
        "image": torch.from_numpy(np.stack([(*case.image, *spacing) for case in cases]).astype(np.float32)),
        "label": torch.from_numpy(np.stack(labels)),
        "weight": torch.from_numpy(np.stack(weights)),
        "boxes": torch.from_numpy(np.stack(boxes)),
        "with_lesions": torch.tensor([True, True, False]),
    }
    fit(objective, lambda step: batch, config, silent)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    assert float(rows[-1]["objectness"]) < 0.1 * float(rows[0]["objectness"])

    average = DetectorObjective(config)
    average.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"])
    with torch.no_grad():
        logits, found = average.network.eval()(batch["image"])
    for n, center in enumerate(centers):
        probability, center_mm, diameter_mm = anchors.decode(logits[n], found[n], 0.5)
        assert np.linalg.norm(center_mm[probability.argmax()] - center) < 1.5
        assert diameter_mm[probability.argmax()] == pytest.approx(4.0, abs=1.0)
    assert len(anchors.decode(logits[2], found[2], 0.5)[0]) == 0


@pytest.mark.parametrize(("kept", "rank"), [((), 0), (("at_1_mm",), 0), (("at_1_mm",), 2)])
def test_a_run_that_was_stopped_ends_in_the_same_weights(tmp_path: Path, kept: tuple[str, ...], rank: int) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])

    torch.jit.save(torch.jit.script(Detector()), str(tmp_path / "detector.pt"))
    options = {"steps": 4, "initial": tmp_path / "detector.pt", "kept": kept, "rank": rank}
    whole = train_detector(detector_training(tmp_path, out=tmp_path / "whole", **options), silent)
    parts = detector_training(tmp_path, out=tmp_path / "parts", **options)
    with pytest.raises(Cancelled):
        train_detector(parts, stopping_after(2))
    resumed = train_detector(parts, silent)

    one, other = (torch.load(path, weights_only=True) for path in (whole, resumed))
    assert one["step"] == other["step"] == 4
    assert one["cases"] == other["cases"] == 1
    checksum = hashlib.sha256((tmp_path / "detector.pt").read_bytes()).hexdigest()
    assert one["started_from"] == other["started_from"] == checksum
    for state in ("objective", "average"):
        for name, value in one[state].items():
            assert torch.equal(value, other[state][name]), name
    logs = [[row[:-1] for row in csv.reader((tmp_path / run / "log.csv").open())] for run in ("whole", "parts")]
    assert logs[0] == logs[1]  # but for the seconds


def test_a_part_that_is_kept_stays_as_it_was_while_the_others_learn(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    torch.jit.save(torch.jit.script(Detector()), str(tmp_path / "detector.pt"))
    config = detector_training(tmp_path, steps=2, initial=tmp_path / "detector.pt", kept=("at_1_mm", "residual_1_mm"))
    learned = torch.load(train_detector(config, silent), weights_only=True)["average"]
    for name, before in torch.jit.load(str(tmp_path / "detector.pt")).state_dict().items():
        is_kept = name.startswith(config.kept)
        if is_kept or name.endswith(("weight", "running_mean")):
            assert torch.equal(before, learned[f"network.{name}"]) == is_kept, name


def test_beside_adapters_kernels_and_batch_statistics_stay_as_they_were_while_the_rest_learns(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    torch.jit.save(torch.jit.script(Detector()), str(tmp_path / "detector.pt"))
    kept = ("at_1_mm", "d1")
    config = detector_training(tmp_path, steps=2, initial=tmp_path / "detector.pt", kept=kept, rank=2)
    checkpoint = train_detector(config, silent)
    learned = torch.load(checkpoint, weights_only=True)["average"]
    adapters = [name for name in learned if name.endswith(".up")]
    assert adapters
    assert not any(name.startswith(tuple(f"network.{part}." for part in kept)) for name in adapters)
    assert all(learned[name].any() for name in adapters)
    initial = torch.jit.load(str(tmp_path / "detector.pt")).state_dict()
    for name, before in initial.items():
        stays = name.startswith(kept) or before.ndim > 1 or "running" in name
        if stays or name in ("at_2_mm.1.1.weight", "proposal.1.bias", "answer.bias"):
            assert torch.equal(before, learned[f"network.{name}"]) == stays, name

    # What is exported has the same kernels, to the bit: the repository packs them once.
    export_model("detector", checkpoint, tmp_path / "models")
    exported = torch.jit.load(str(tmp_path / "models" / "detector.pt")).state_dict()
    for name, before in initial.items():
        if before.ndim > 1:
            assert torch.equal(before, exported[name]), name
    small = [value for name, value in exported.items() if name.endswith((".up", ".down"))]
    assert len(small) == 2 * len(adapters)
    assert {value.dtype for value in small} == {torch.bfloat16}


def adapted_detector(kept: tuple[str, ...] = (), rank: int = 2) -> Detector:
    """A detector whose adapters say a lot."""
    torch.manual_seed(0)
    network = Detector().eval()
    nn.init.normal_(network.answer.weight, std=3)
    nn.init.zeros_(network.get_parameter("answer.bias"))
    adapt(network, rank, kept)
    for name, weight in network.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(weight, std=0.3)
    return network


def test_a_search_runs_a_network_with_adapters_as_one_without(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(adapted_detector()), str(tmp_path / "initial.pt"))
    config = detector_training(tmp_path, steps=0, initial=tmp_path / "initial.pt", rank=2)
    checkpoint = fit(DetectorObjective(config), small_batch, config, silent)
    export_model("detector", checkpoint, tmp_path / "models")
    model = load_model("detector", device="cpu", models_dir=tmp_path / "models")
    assert "matmul" not in str(model.module.graph)

    network, _ = averaged_network("detector", checkpoint)
    weights, x = network.state_dict(), torch.rand(1, 3, 64, 32, 32)
    unadapted = Detector().eval()
    unadapted.load_state_dict({name: weight for name, weight in weights.items() if not name.endswith((".up", ".down"))})
    expected, found = network(x)[0], model.module(x.to(model.dtype))[0].float()
    assert float((unadapted(x)[0] - expected).std()) > 0.5 * float(expected.std())  # what the adapters say is seen
    assert float((found - expected).std()) < 0.05 * float(expected.std())

    # The comparison of networks reads a checkpoint and an exported network as a search does.
    kernel = merged(weights)["d2.join.0.weight"].to(model.dtype)
    for path in (checkpoint, tmp_path / "models"):
        read = read_variant("one", path).detector
        assert read is not None
        assert torch.equal(read.module.get_parameter("d2.join.0.weight"), kernel)


@pytest.mark.parametrize(("rank", "kept"), [(0, ()), (2, ()), (3, ()), (2, ("d1",))])
def test_a_run_starts_from_a_network_with_adapters_whatever_its_own_are(
    tmp_path: Path, rank: int, kept: tuple[str, ...]
) -> None:
    first, x = adapted_detector(), torch.rand(1, 3, 64, 32, 32)
    torch.jit.save(torch.jit.script(first), str(tmp_path / "detector.pt"))
    config = detector_training(tmp_path, initial=tmp_path / "detector.pt", rank=rank, kept=kept)
    objective = DetectorObjective(config).eval()
    start_from(tmp_path / "detector.pt", objective, kept)
    for one, other in zip(first(x), objective.network(x), strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    # With the same adapters kernels stay as they are; with others they take in what the first ones say.
    kernels = (each.get_parameter("d2.join.0.weight") for each in (first, objective.network))
    same = torch.equal(*kernels)
    assert same == ((rank, kept) == (2, ()))


def test_adapters_need_a_network_that_is_whole(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Detector(ffm=False)), str(tmp_path / "detector.pt"))
    config = detector_training(tmp_path, initial=tmp_path / "detector.pt", rank=2)
    with pytest.raises(
        InputError, match=r"it lacks fusion\.from_2_mm\.0\.bias, or a part of it; with 'rank' it must be whole"
    ):
        start_from(tmp_path / "detector.pt", DetectorObjective(config))


class Small(nn.Module):
    """A network with batch statistics, and its loss times a factor."""

    def __init__(self, factor: float = 1.0, channels: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv3d(1, channels, 1), nn.BatchNorm3d(channels))
        self.factor = factor

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": self.factor * (self.network(batch["x"]) - batch["x"]).square().mean()}


def small_batch(step: int) -> dict[str, Tensor]:
    return {"x": torch.randn(2, 1, 3, 3, 3, generator=torch.Generator().manual_seed(step))}


def small_training(out: Path, **options: Any) -> Training:
    usual = {"steps": 4, "batch": 2, "loaders": 0, "device": "cpu", "bfloat16": False}
    return Training(**{"out": out, "cases": out, "cache": out, **usual, **options})


def stopping_after(step: int) -> Callable[[str, float, str], None]:
    def stop(stage: str, share: float, message: str) -> None:
        if message.startswith(f"step {step} "):
            raise Cancelled("stopped")

    return stop


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl+C raises, as it does in a terminal; in what a script runs in the background it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("moment", ["forward", "update"])
def test_a_signal_in_the_midst_of_a_step_stops_after_it_and_the_run_ends_in_the_same_weights(
    tmp_path: Path, moment: str
) -> None:
    whole = torch.load(fit(Small(), small_batch, small_training(tmp_path / "whole"), silent), weights_only=True)

    calls: list[None] = []

    def interrupt(*_: object) -> None:
        calls.append(None)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)

    objective, config, usual = Small(), small_training(tmp_path / "parts"), signal.getsignal(signal.SIGINT)
    if moment == "forward":
        hook = objective.network.register_forward_hook(interrupt)  # after the batch statistics
    else:
        hook = register_optimizer_step_post_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(objective, small_batch, config, silent)
    finally:
        hook.remove()
    assert signal.getsignal(signal.SIGINT) is usual
    assert torch.load(config.out / CHECKPOINT, weights_only=True)["step"] == 2
    resumed = torch.load(fit(Small(), small_batch, config, silent), weights_only=True)
    assert resumed["step"] == whole["step"] == 4
    for state in ("objective", "average"):
        assert any(name.endswith("running_var") for name in whole[state])
        for name, value in whole[state].items():
            assert torch.equal(value, resumed[state][name]), name


@pytest.mark.usefixtures("heeded")
def test_a_second_signal_does_not_wait_for_the_step_and_leaves_the_checkpoint_as_it_was(tmp_path: Path) -> None:
    config, usual = small_training(tmp_path), signal.getsignal(signal.SIGINT)
    with pytest.raises(Cancelled):
        fit(Small(), small_batch, config, stopping_after(1))
    before = (tmp_path / CHECKPOINT).read_bytes()
    objective, reached = Small(), []

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append("after the first")
        signal.raise_signal(signal.SIGINT)
        reached.append("after the second")

    objective.network.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(objective, small_batch, config, silent)
    assert reached == ["after the first"]
    assert signal.getsignal(signal.SIGINT) is usual
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_run_does_not_go_on_with_another_set_of_cases_of_the_same_names(tmp_path: Path) -> None:
    for name, sign in (("one", 1), ("two", -1)):
        (tmp_path / name).mkdir()
        write_case(tmp_path / name / "case_0000", heads_of("train")[0], sign)
    config = detector_training(tmp_path, cases=tmp_path / "one", steps=0)
    train_detector(config, silent)
    (tmp_path / "one").rename(tmp_path / "moved")
    train_detector(replace(config, cases=tmp_path / "moved"), silent)
    with pytest.raises(InputError, match="only one of the two has the case 'case_0000-"):
        train_detector(replace(config, cases=tmp_path / "two"), silent)


@pytest.mark.parametrize(
    ("option", "value"),
    [("seed", 1), ("batch", 4), ("learning_rate", 1e-3), ("steps", 5), ("split", "all"), ("kept", ("0",))],
)
def test_a_run_does_not_go_on_with_another_option(tmp_path: Path, option: str, value: Any) -> None:
    config = small_training(tmp_path, steps=0, initial=tmp_path / "network.pt")
    torch.jit.save(torch.jit.script(Small().network), str(tmp_path / "network.pt"))
    path = fit(Small(), small_batch, config, silent)
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"checkpoint\.pt is of another run \(its '{option}' is .+, not .+\)"):
        fit(Small(), small_batch, replace(config, **{option: value}), silent)
    assert path.read_bytes() == before


def test_a_run_goes_on_elsewhere_and_for_another_time(tmp_path: Path) -> None:
    config = small_training(tmp_path / "one")
    with pytest.raises(Cancelled):
        fit(Small(), small_batch, config, stopping_after(1))
    (tmp_path / "one").rename(tmp_path / "two")
    moved = small_training(tmp_path / "two", minutes=9.0, checkpoint_minutes=1.0, loaders=1, device="auto")
    assert torch.load(fit(Small(), small_batch, moved, silent), weights_only=True)["step"] == 4


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"cases": ["a"]}, "the case 'b'"),
        ({"cases": ["a", "b", "c"]}, "the case 'c'"),
        ({"heads": ["03"]}, "the head '02'"),
    ],
)
def test_a_run_does_not_go_on_with_other_cases_or_heads(tmp_path: Path, names: dict[str, list[str]], said: str) -> None:
    config, usual = small_training(tmp_path, steps=0), {"cases": ["a", "b"], "heads": ["02"]}
    fit(Small(), small_batch, config, silent, **usual)
    with pytest.raises(InputError, match=rf"of another run \(only one of the two has {said}\)"):
        fit(Small(), small_batch, config, silent, **{**usual, **names})


def test_what_an_older_checkpoint_does_not_say_is_taken_for_the_default(tmp_path: Path) -> None:
    config = small_training(tmp_path, steps=0)
    path = fit(Small(), small_batch, config, silent, cases=["a"], heads=["02"])
    state = torch.load(path, weights_only=True)
    del state["case_names"], state["heads"], state["config"]["weight_decay"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"its 'weight_decay' is 0\.0001, not 0\.1"):
        fit(Small(), small_batch, replace(config, weight_decay=0.1), silent)
    fit(Small(), small_batch, config, silent, cases=["b"], heads=["03"])


def test_the_manifest_names_the_heads_that_the_cases_had(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[4])
    checkpoint = train_detector(detector_training(tmp_path, steps=0), silent)
    manifest = json.loads(export_model("detector", checkpoint, tmp_path).read_text())
    assert manifest["training"]["heads"] == [heads_of("train")[4]]
    assert manifest["training"]["cases"] == 1


@pytest.mark.parametrize("content", [b"", b"garbage garbage", bytes(500), b"half"])
def test_a_damaged_checkpoint_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    config = small_training(tmp_path, steps=0)
    path = fit(Small(), small_batch, config, silent)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == b"half" else content)
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged .* empty folder for 'out'"):
        fit(Small(), small_batch, config, silent)


def test_a_log_that_a_power_cut_has_damaged_goes_on_with_the_lines_that_are_whole(tmp_path: Path) -> None:
    config = small_training(tmp_path)
    with pytest.raises(Cancelled):
        fit(Small(), small_batch, config, stopping_after(3))
    log = tmp_path / "log.csv"
    head, first, _, third = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(head + first + b"2,0.1\r\n" + b"x" + third + bytes(40) + b"\r\n")
    fit(Small(), small_batch, config, silent)
    assert [line.split(b",")[0] for line in log.read_bytes().splitlines()] == [b"step", b"1", b"4"]


def test_a_loss_that_is_not_finite_ends_the_run_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"step 1, .* is not finite\. Lower 'learning_rate' \(it is 0\.002\)"):
        fit(Small(factor=float("inf")), small_batch, small_training(tmp_path), silent)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_part_that_the_first_network_lacks_cannot_be_kept(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    torch.jit.save(torch.jit.script(Detector(ffm=False)), str(tmp_path / "detector.pt"))
    config = detector_training(tmp_path, initial=tmp_path / "detector.pt", kept=("fusion",))
    with pytest.raises(InputError, match=r"it lacks fusion\.from_2_mm\.0\.bias"):
        train_detector(config, silent)


def test_parts_to_keep_need_a_network_that_has_them(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    with pytest.raises(InputError, match=r"'stem' .* name the network that it is of as 'initial'"):
        detector_training(tmp_path, kept=("stem",))
    torch.jit.save(torch.jit.script(Detector()), str(tmp_path / "detector.pt"))
    config = detector_training(tmp_path, initial=tmp_path / "detector.pt", kept=("stem",))
    with pytest.raises(InputError, match=r"no part 'stem' to keep; it has at_1_mm, residual_1_mm"):
        train_detector(config, silent)


def test_a_run_stops_when_its_minutes_are_over(tmp_path: Path) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    checkpoint = train_detector(detector_training(tmp_path, steps=1000, minutes=0.0), silent)
    assert torch.load(checkpoint, weights_only=True)["step"] == 1


def test_a_network_that_read_fewer_channels_answers_the_same_in_a_larger_one(tmp_path: Path) -> None:
    class TwoChannels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv3d(2, 4, 3), nn.Conv3d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    class ThreeChannels(TwoChannels):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv3d(3, 4, 3)

    old, objective = TwoChannels(), nn.Module()
    torch.jit.save(torch.jit.script(old), str(tmp_path / "old.pt"))
    objective.network = ThreeChannels()
    start_from(tmp_path / "old.pt", objective)
    x = torch.randn(1, 3, 5, 5, 5)
    assert torch.allclose(objective.network(x), old(x[:, :2]), atol=1e-6)


def test_only_the_layer_that_reads_the_input_may_have_read_fewer_channels(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 1, 1))), str(tmp_path / "old.pt"))
    objective = nn.Module()
    objective.network = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(5, 1, 1))
    with pytest.raises(InputError, match="does not hold the weights"):
        start_from(tmp_path / "old.pt", objective)


def test_residual_units_change_nothing_at_first() -> None:
    x = torch.rand(2, 6, 5, 5, 5)  # as after a ReLU
    assert torch.equal(Residual(6)(x), x)


def test_a_segmenter_that_read_no_coordinates_answers_the_same_in_one_that_does(tmp_path: Path) -> None:
    old, objective = Segmenter(coordinates=False).eval(), nn.Module()
    torch.jit.save(torch.jit.script(old), str(tmp_path / "old.pt"))
    objective.network = Segmenter().eval()
    start_from(tmp_path / "old.pt", objective)
    x = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(objective.network(x), old(x), atol=1e-5)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    config = small_training(tmp_path, steps=0)
    fit(Small(), small_batch, config, silent)
    with pytest.raises(InputError, match=r"checkpoint\.pt is of another run \(size mismatch for network\.1"):
        fit(Small(channels=3), small_batch, config, silent)


# --- the segmenter's images


def toy_head() -> Head:
    """Two halves of white matter in RAS order: left (2) toward lower R, right (41) toward higher."""
    numbers, mars = np.zeros((80, 80, 80), np.uint16), np.zeros((80, 80, 80), np.uint8)
    numbers[10:40, 10:70, 10:70], numbers[40:70, 10:70, 10:70] = 2, 41
    numbers[38:42, 30:50, 10:40] = 16  # unpaired
    mars[10:70, 10:40, 10:70], mars[10:70, 40:70, 10:70] = 12, 9
    return with_sides(numbers, mars)


def test_an_unpaired_structure_takes_the_side_of_its_neighbors() -> None:
    left = toy_head().code % 2
    assert left[38, 40, 20] == 1
    assert left[41, 40, 20] == 0


@pytest.mark.parametrize("seed", range(6))
def test_left_is_left_and_front_is_front_in_every_random_image_mirrored_or_not(seed: int) -> None:
    sample = random_sample(toy_head(), (96, 96, 48), np.random.default_rng(seed))
    brain = sample.label > 0
    r, a, _ = np.nonzero(brain)
    assert r[sample.left[brain] == 1].mean() < r[sample.left[brain] == 0].mean() - 5
    assert a[sample.label[brain] == 9].mean() > a[sample.label[brain] == 12].mean() + 5
    assert sample.image.shape == brain.shape
    assert np.isfinite(sample.image).all()


def test_every_head_comes_with_as_many_thinner_ones_as_are_asked_for_no_two_alike(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training_heads, "heads_of", lambda part: ["02", "03"])
    labels = np.full((40, 40, 40), 42, np.int16)
    labels[:8], labels[-8:], labels[14:26, 8:-8, 8:-8] = 0, 0, 41
    for head in ("02", "03"):
        for name, array in (("labels", labels), ("mars", (labels > 0) * 9)):
            write_volume(Volume(array.astype(np.uint16), np.eye(4)), tmp_path / f"{head}_{name}.nii.gz")
    tissue = [(head.code // 2 % 14 > 0).sum() for head in load_heads(tmp_path, "train", 2)]
    assert tissue[:2] == [(labels > 0).sum()] * 2 and max(tissue[2:]) < tissue[0]
    assert len(set(tissue[2:])) == 4
    assert len(load_heads(tmp_path, "train")) == 2


def test_veins_darken_fluid_and_little_else() -> None:
    fluid = np.zeros((40, 40, 20), bool)
    fluid[10:30, 10:30] = True
    left = [_veins_in_fluid(fluid, np.random.default_rng(seed)) for seed in range(20)]
    assert all(0 <= each.min() <= each.max() <= 1 for each in left)
    assert np.mean([(each[fluid] < 0.7).any() for each in left]) > 0.8
    assert all((each[:6] > 0.99).all() for each in left)
    assert (_veins_in_fluid(np.zeros_like(fluid), np.random.default_rng(0)) == 1).all()


def test_fluid_of_both_sides_may_hold_veins(monkeypatch) -> None:
    numbers = np.full((80, 80, 80), 2, np.uint16)
    numbers[40:], numbers[20:30, 30:50, 30:50], numbers[50:60, 30:50, 30:50] = 41, 4, 43
    seen: list[np.ndarray] = []

    def veins(fluid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen.append(fluid)
        return np.ones(fluid.shape, np.float32)

    monkeypatch.setattr(training_heads, "_veins_in_fluid", veins)
    for seed in range(8):
        random_sample(
            with_sides(numbers, (numbers > 0).astype(np.uint8)), (80, 80, 40), np.random.default_rng(seed), 0.5
        )
    assert 0 < len(seen) < 8
    assert all(min(half.any() for half in np.array_split(fluid, 2)) for fluid in seen)


def test_a_mirrored_window_keeps_its_labels_under_its_tissue_and_turns_its_coordinates() -> None:
    label = np.zeros((40, 36, 20), np.uint8)
    label[4:16, 8:30, 4:16] = 4
    r = np.broadcast_to(np.arange(-20, 20)[:, None, None] / 100, label.shape)
    channels = np.stack([np.where(label == 4, 1.0, -2.0), r, 0 * r, 0 * r]).astype(np.float32)
    seen = dict.fromkeys((False, True), 0)
    for seed in range(12):
        image, moved = vary_window(channels, label, np.random.default_rng(seed))
        assert image[0][moved == 4].mean() > image[0][moved == 0].mean() + 0.5
        mirrored = bool(moved[30, 20, 10])
        seen[mirrored] += 1
        assert (np.diff(image[1], axis=0) > 0).all(), "R still grows along the first axis"
        place = image[1][moved == 4].mean() * (-1 if mirrored else 1)
        assert place == pytest.approx(r[label == 4].mean(), abs=0.06)
    assert min(seen.values()) > 0


def test_a_segmenter_batch_ends_in_zeros_as_inference_does(tmp_path: Path) -> None:
    config = SegmenterTraining(
        out=tmp_path, cases=tmp_path, cache=tmp_path, patch=(96, 96, 48), window=(96, 96, 48), rendered=0
    )
    batch = segmenter_batch([], [toy_head()], config, 1)
    assert batch["image"].shape == (2, 4, 96, 96, 48)
    assert batch["label"].shape == batch["left"].shape == batch["image"][:, 0].shape
    assert not batch["image"][:, :, -1].any()
    again: dict[str, Tensor] = segmenter_batch([], [toy_head()], config, 1)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_thin_heads_and_veins_in_fluid_come_into_training_as_its_options_say(tmp_path: Path, monkeypatch) -> None:
    options: dict[str, Any] = {
        "out": tmp_path, "cases": tmp_path, "cache": tmp_path, "heads": tmp_path, "patch": (96, 96, 48),
        "window": (96, 96, 48), "rendered": 0,
    }  # fmt: skip
    asked: list[Any] = []

    def load(folder: Path, part: str, atrophies: int) -> list[Head]:
        asked.append(atrophies)
        raise InterruptedError

    monkeypatch.setattr(training_segmenter, "load_heads", load)
    with pytest.raises(InterruptedError):
        train_segmenter(SegmenterTraining(**options, atrophies=3), silent)
    assert asked == [3]

    def veins(fluid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        asked.append("veins")
        return np.ones(fluid.shape, np.float32)

    monkeypatch.setattr(training_heads, "_veins_in_fluid", veins)
    segmenter_batch([], [toy_head()], SegmenterTraining(**options), 1)
    assert asked == [3]
    segmenter_batch([], [toy_head()], SegmenterTraining(**options, veined=1), 1)
    assert asked == [3, "veins", "veins"]


@pytest.mark.parametrize("option", ["atrophies", "veined"])
@pytest.mark.parametrize("without", [{"heads": None}, {"rendered": 1}])
def test_options_of_random_images_are_refused_where_there_are_none(
    tmp_path: Path, option: str, without: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"out": tmp_path, "cases": tmp_path, "cache": tmp_path, "heads": tmp_path, option: 1}
    with pytest.raises(InputError, match=f"The option '{option}' is of images of 'heads'"):
        SegmenterTraining(**options | without)


@pytest.mark.parametrize("options", [{}, {"heads": Path("heads"), "rendered": 1}])
def test_a_segmenter_that_nothing_would_teach_left_and_right_is_not_trained(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    config = SegmenterTraining(out=tmp_path, cases=tmp_path, cache=tmp_path, **options)
    with pytest.raises(InputError, match="would not learn left and right"):
        train_segmenter(config, silent)


def test_a_segmenter_that_knows_left_and_right_trains_on_rendered_scans_alone_and_logs_both_losses(
    tmp_path: Path,
) -> None:
    write_case(tmp_path / "a", heads_of("train")[0])
    torch.jit.save(torch.jit.script(Segmenter()), str(tmp_path / "segmenter.pt"))
    config = SegmenterTraining(
        out=tmp_path / "run", cases=tmp_path, cache=tmp_path / "cache", initial=tmp_path / "segmenter.pt",
        window=(64, 64, 32), rendered=1, steps=2,
    )  # fmt: skip
    state = torch.load(train_segmenter(config, silent), weights_only=True)
    assert (state["case_names"], state["heads"]) == ([case_name(tmp_path / "a")], [heads_of("train")[0]])
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert float(rows[0]["region"]) > 1
    assert float(rows[0]["side"]) == 0  # nobody recorded the side of rendered scans
