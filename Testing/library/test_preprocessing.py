from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from CMBDetectorLib.networks import anchors
from CMBDetectorLib.preprocessing import (
    DETECTOR_SPACING_MM,
    brain_box,
    brain_mask,
    brain_share,
    closed,
    detector_input,
    segmenter_channels,
    segmenter_input,
)
from CMBDetectorLib.resampling import as_stored, on_grid
from CMBDetectorLib.volume import Volume

BALL_RAS_MM = np.array([13.3, -8.7, 10.4])


def coordinates(volume: Volume) -> np.ndarray:
    return volume.ras_of(np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), axis=-1))


def empty_scan(shape: tuple[int, int, int] = (150, 170, 50), spacing_mm: tuple = (0.6, 0.6, 1.8)) -> Volume:
    matrix = np.diag([*spacing_mm, 1.0])
    matrix[:3, 3] = -0.5 * np.array(shape) * spacing_mm + [1.1, -2.3, 4.7]
    return Volume(np.zeros(shape, np.float32), matrix)


def scan_with_ball() -> tuple[Volume, Volume]:
    """A bright head of 35-40 mm radius with a soft dark ball of 6 mm, and its mask."""
    empty = empty_scan()
    ras = coordinates(empty)
    head = ((ras / [35, 40, 36]) ** 2).sum(axis=-1) < 1
    distance = np.linalg.norm(ras - BALL_RAS_MM, axis=-1)
    values = 100 * head * (1 - 0.8 * np.clip(3.5 - distance, 0, 1))
    return empty.with_array(values.astype(np.float32)), empty.with_array(head)


def stored_as(volume: Volume, axes: tuple[int, ...], flipped: tuple[int, ...]) -> Volume:
    """The same voxels in another order in the file."""
    matrix = volume.ijk_to_ras.copy()
    matrix[:, :3] = matrix[:, list(axes)]
    array = np.transpose(volume.array, axes)
    for axis in flipped:
        matrix[:3, 3] += matrix[:3, axis] * (array.shape[axis] - 1)
        matrix[:3, axis] *= -1
        array = np.flip(array, axis)
    return Volume(array, matrix)


def test_a_ball_lands_where_it_is_to_a_tenth_of_a_millimeter() -> None:
    swi, brain = scan_with_ball()
    found = detector_input(swi, None, brain)
    ras = coordinates(Volume(found.array[0], found.ijk_to_ras))
    near = np.linalg.norm(ras - BALL_RAS_MM, axis=-1) < 6
    darkness = np.where(near, np.maximum(0, -found.array[0] - 0.2), 0)
    center = (ras * darkness[..., None]).sum(axis=(0, 1, 2)) / darkness.sum()
    assert np.abs(center - BALL_RAS_MM).max() < 0.1


@pytest.mark.parametrize(("spacing_mm", "expected"), [(0.5, -0.368), (2.0, 0.0), (4.0, 0.5), (9.0, 0.535)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_the_detector_is_told_how_far_apart_the_slices_lie(
    spacing_mm: float, expected: float, axes: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).uniform(80, 120, (24, 24, 12)).astype(np.float32)
    scan = stored_as(Volume(array, np.diag([1.0, 1.0, spacing_mm, 1.0])), axes, (0,))
    inside = np.zeros(scan.array.shape, bool)
    inside[4:-4, 4:-4, 3:-3] = True
    found = detector_input(scan, None, scan.with_array(inside)).array
    assert (found[0] == 0).any()
    assert np.allclose(found[2][found[0] != 0], expected, atol=1e-3)
    assert not found[2][np.abs(found[2] - expected) > 1e-3].any()


def test_the_detector_grid_is_the_one_its_anchors_speak_of() -> None:
    swi, brain = scan_with_ball()
    found = detector_input(swi, None, brain)
    assert DETECTOR_SPACING_MM == anchors.SPACING_MM
    assert np.allclose(np.linalg.norm(found.ijk_to_ras[:3, :3], axis=0), anchors.SPACING_MM)
    assert found.array.dtype == np.float32


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_every_way_of_storing_a_scan_gives_the_same_arrays(axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    empty = empty_scan((40, 46, 30), (1.1, 1.2, 2.0))
    head = ((coordinates(empty) / [18, 22, 24]) ** 2).sum(axis=-1) < 1
    swi = empty.with_array((head * rng.uniform(50, 100, head.shape)).astype(np.float32))
    phase = empty.with_array(rng.normal(0, 1, head.shape).astype(np.float32))
    mars = empty.with_array(head.astype(np.uint8))
    flipped = axes[:2]
    other_swi, other_phase, other_mars = (stored_as(v, axes, flipped) for v in (swi, phase, mars))

    brain, other_brain = brain_mask(mars, swi), brain_mask(other_mars, other_swi)
    assert np.array_equal(brain.array, other_brain.in_ras_order().array)
    for one, other in (
        (segmenter_input(swi), segmenter_input(other_swi)),
        (detector_input(swi, phase, brain), detector_input(other_swi, other_phase, other_brain)),
    ):
        assert np.array_equal(one.array, other.array)
        assert np.allclose(one.ijk_to_ras, other.ijk_to_ras)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_an_array_goes_back_to_the_order_in_which_its_scan_is_stored(axes: tuple[int, ...]) -> None:
    scan = stored_as(empty_scan((3, 4, 5)), axes, (1, 2))
    scan = scan.with_array(np.arange(60).reshape(scan.array.shape))
    assert np.array_equal(as_stored(scan.in_ras_order().array, scan).array, scan.array)


def test_an_oblique_scan_keeps_its_own_axes() -> None:
    swi, brain = scan_with_ball()
    angle = np.deg2rad(20)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    straight = detector_input(swi, None, brain)
    tilted = detector_input(
        Volume(swi.array, tilt @ swi.ijk_to_ras), None, Volume(brain.array, tilt @ brain.ijk_to_ras)
    )
    assert np.allclose(tilted.ijk_to_ras, tilt @ straight.ijk_to_ras)
    assert np.allclose(tilted.array, straight.array, atol=1e-4)


@pytest.mark.parametrize(("spacing_mm", "error_mm"), [((0.5, 0.5, 1.0), 1e-4), ((2.0, 2.0, 2.0), 0.06)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_place_stays_where_it_is_when_resampled(spacing_mm: tuple, error_mm: float, axis: int) -> None:
    empty = empty_scan((60, 66, 20), (0.7, 0.9, 2.0))
    resampled = on_grid(empty.with_array(coordinates(empty)[..., axis].astype(np.float32)), spacing_mm)
    inner = (slice(3, -3),) * 3
    assert np.abs(resampled.array - coordinates(resampled)[..., axis])[inner].max() < error_mm


def test_a_pattern_too_fine_for_the_grid_is_averaged_out_not_aliased() -> None:
    empty = empty_scan((80, 80, 20), (0.5, 0.5, 2.0))
    stripes = empty.with_array(np.broadcast_to((np.arange(80) % 2)[:, None, None], (80, 80, 20)).astype(np.float32))
    coarse = on_grid(stripes, (2.0, 2.0, 2.0)).array[2:-2]
    assert np.allclose(coarse, 0.5, atol=0.01)


def test_coil_shading_and_scale_do_not_reach_the_detector() -> None:
    swi, brain = scan_with_ball()
    shading = np.exp(coordinates(swi)[..., 0] / 60)
    plain = detector_input(swi, None, brain)
    shaded = detector_input(swi.with_array((swi.array * shading * 37).astype(np.float32)), None, brain)
    deep = np.linalg.norm(coordinates(Volume(plain.array[0], plain.ijk_to_ras)), axis=-1) < 22
    assert np.abs(shaded.array[0] - plain.array[0])[deep].max() < 0.1
    assert shaded.array[0][deep].min() < -0.6


def test_outside_the_brain_and_without_phase_there_are_zeros() -> None:
    swi, brain = scan_with_ball()
    found = detector_input(swi.with_array(swi.array + 20), None, brain)
    radius = np.sqrt(((coordinates(Volume(found.array[0], found.ijk_to_ras)) / [35, 40, 36]) ** 2).sum(axis=-1))
    assert not found.array[:, radius > 1.05].any()
    assert found.array[0][radius < 0.9].any()
    assert not found.array[1].any()


def test_phase_is_interpolated_around_the_circle() -> None:
    empty = empty_scan((40, 40, 20), (0.5, 0.5, 2.0))
    swi, brain = empty.with_array(empty.array + 1), empty.with_array(np.ones(empty.array.shape, bool))
    phase = empty.with_array(np.where(np.arange(20) % 2, 3.0, -3.0).astype(np.float32) + empty.array)
    between = detector_input(swi, phase, brain).array[1][:, :, 1::2]
    assert np.abs(between[:, :, :-1]).min() > 0.99


def test_the_brain_mask_holds_ventricles_and_sulci_and_a_rim_of_two_millimeters() -> None:
    empty = empty_scan((100, 100, 50), (0.8, 0.8, 1.6))
    ras = coordinates(empty)
    radius = np.linalg.norm(ras, axis=-1)
    ventricle = np.linalg.norm(ras - [5, 0, 0], axis=-1) < 8
    sulcus = (np.abs(ras[..., 0]) < 1.5) & (ras[..., 1] > 15)
    labels = empty.with_array(((radius < 30) & ~ventricle & ~sulcus).astype(np.uint8))
    mask = brain_mask(labels, empty.with_array(np.ones(radius.shape, np.float32))).array
    assert mask[ventricle].all()
    assert mask[sulcus & (radius < 29)].all()
    assert mask[(radius < 30.5) & (np.abs(ras[..., 0]) > 6)].all()
    assert not mask[radius > 34].any()


def test_a_large_lesion_that_is_taken_for_a_part_of_a_wide_fissure_is_searched() -> None:
    empty = empty_scan((120, 120, 60), (0.8, 0.8, 1.6))
    ras = coordinates(empty)
    fissure = (np.abs(ras[..., 0]) < 5) & (ras[..., 1] > 0)
    lesion = np.linalg.norm(ras - [2, 18, 0], axis=-1) < 4
    swi = np.where(lesion, 0.1, np.where(fissure, 1.2, 1.0)).astype(np.float32)
    tissue = (np.linalg.norm(ras, axis=-1) < 36) & ~fissure & ~lesion
    mask = brain_mask(empty.with_array(tissue.astype(np.uint8)), empty.with_array(swi)).array
    assert mask[lesion].all()


def test_the_brain_mask_leaves_bone_out_and_keeps_lesions() -> None:
    empty = empty_scan((120, 120, 60), (0.8, 0.8, 1.6))
    ras = coordinates(empty)
    radius = np.linalg.norm(ras, axis=-1)
    inner = np.linalg.norm(ras - [10, 0, 0], axis=-1) < 4.5
    surface = np.linalg.norm(ras - [-28, 0, 0], axis=-1) < 2.5
    swi = np.where((radius < 30) & ~inner & ~surface, 1.0, 0.05).astype(np.float32)
    mask = brain_mask(empty.with_array((radius < 38).astype(np.uint8)), empty.with_array(swi)).array
    assert mask[radius < 30].all(), "a large lesion within and a small one at the surface are searched"
    assert not mask[radius > 35].any(), "labels 8 mm into the bone do not make it brain"


def stripped_brain() -> tuple[Volume, Volume, np.ndarray, np.ndarray]:
    """A stripped brain whose labels fill a sulcus that is open to the outside, and a black lesion within."""
    empty = empty_scan((120, 120, 60), (0.8, 0.8, 1.6))
    ras = coordinates(empty)
    radius = np.linalg.norm(ras, axis=-1)
    pocket = (np.abs(ras[..., 0]) < 2) & (ras[..., 1] > 22)
    lesion = np.linalg.norm(ras - [10, 0, 0], axis=-1) < 3
    swi = 100 * ((radius < 32) & ~pocket & ~lesion) * (1 + 0.02 * np.sin(ras[..., 0]))
    return (
        empty.with_array(swi.astype(np.float32)),
        empty.with_array((radius < 30).astype(np.uint8)),
        pocket,
        lesion,
    )


@pytest.mark.parametrize("background", [0.0, -0.01, -1000.0])
def test_what_skull_stripping_cut_off_is_not_searched_and_does_not_darken_the_rest(background: float) -> None:
    swi, labels, pocket, lesion = stripped_brain()
    outside = (swi.array == 0) & ~lesion & (np.random.default_rng(0).random(swi.array.shape) < 0.5)
    swi.array[outside] = background
    brain = brain_mask(labels, swi)
    assert not brain.array[pocket].any(), "no black pockets at the surface, which look like lesions"
    assert brain.array[lesion].all(), "a black lesion within is searched"
    seen = detector_input(swi, None, brain)
    ras = coordinates(Volume(seen.array[0], seen.ijk_to_ras))
    away = np.linalg.norm(ras - [10, 0, 0], axis=-1) > 6
    assert seen.array[0][away].min() > -0.1, "no dark rim"
    assert seen.array[0].min() < -0.9, "the lesion is dark"


def test_an_empty_label_map_gives_an_empty_brain_and_an_empty_input() -> None:
    swi, _ = scan_with_ball()
    brain = brain_mask(swi.with_array(np.zeros(swi.array.shape, np.uint8)), swi)
    assert not brain.array.any()
    assert not detector_input(swi, None, brain).array.any()


@pytest.mark.parametrize("gap_mm", [3.0, 8.0, 12.0])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_gaps_are_closed_as_by_distances_measured_one_by_one(gap_mm: float, share: float) -> None:
    tissue = np.random.default_rng(1).random((9, 11, 7)) < share
    reach, margin = gap_mm / 4, 8
    padded = np.pad(tissue, margin)
    places = np.argwhere(padded)
    every = np.stack(np.meshgrid(*(np.arange(n) for n in padded.shape), indexing="ij"), axis=-1)

    def far(from_places: np.ndarray) -> np.ndarray:
        if not len(from_places):
            return np.ones(padded.shape, bool)
        return cKDTree(from_places).query(every)[0] > reach

    expected = ndimage.binary_fill_holes(far(np.argwhere(far(places))))
    if not tissue.any():
        expected[:] = False
    assert np.array_equal(closed(tissue, gap_mm), expected[margin:-margin, margin:-margin, margin:-margin])


def test_a_map_without_tissue_holds_no_brain() -> None:
    assert not brain_share(Volume(np.zeros((12, 12, 12), bool), np.eye(4))).any()


def test_the_segmenter_sees_a_standardized_head_and_coordinates_from_its_middle() -> None:
    swi, _ = scan_with_ball()
    seen = segmenter_input(swi)
    ras = coordinates(Volume(seen.array[0], seen.ijk_to_ras))
    assert seen.array.shape[0] == 4
    assert np.allclose(np.moveaxis(seen.array[1:], 0, -1) * 100, ras, atol=1.5)
    assert np.abs(seen.array[0]).max() <= 3
    brighter = segmenter_input(swi.with_array(swi.array * 37))
    assert np.allclose(brighter.array, seen.array, atol=1e-3)


@pytest.mark.parametrize(("noise", "offset", "most_fat"), [(0, 0, 900), (20, 0, 900), (0, 50, 900), (4, 0, 1300)])
def test_bright_fat_around_the_brain_hardly_changes_what_the_segmenter_sees_of_it(
    noise: float, offset: float, most_fat: float
) -> None:
    ras = coordinates(Volume(np.zeros((160, 190, 40), np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))) - [80, 95, 40]
    radius = np.sqrt(((ras[..., :2] / [70, 85]) ** 2).sum(axis=-1))
    texture = 10 * np.sin(ras[..., 0] / 5)
    brain, scalp = radius < 0.85, (radius > 0.95) & (radius < 1)
    air = np.random.default_rng(0).rayleigh(max(noise, 1e-6), radius.shape) * ~(brain | scalp) + offset
    usual, bright = (
        segmenter_channels((brain * (100 + texture) + scalp * fat + air).astype(np.float32)) for fat in (110, most_fat)
    )
    contrast = [channels[0][brain].std() for channels in (usual, bright)]
    assert contrast[1] > 0.6 * contrast[0], "a z-score over all of the fat would leave a tenth"
    assert np.allclose(usual[1:], bright[1:], atol=0.02), "the head's middle stays"


@pytest.mark.parametrize("shading_per_mm", [0.0, 0.015])  # the second: fifteen times darker at the back
def test_the_segmenter_is_spared_the_air_beside_the_head_and_misses_nothing_of_it(shading_per_mm: float) -> None:
    shape = (260, 250, 30)
    matrix = np.diag([1.0, 1.0, 2.0, 1.0])
    matrix[:3, 3] = (-150, -110, -20)
    empty = Volume(np.zeros(shape, np.float32), matrix)
    ras = coordinates(empty)
    head = np.sqrt(((ras[..., :2] / [62, 78]) ** 2).sum(axis=-1)) < 1
    rng = np.random.default_rng(3)
    shading = np.exp(shading_per_mm * ras[..., 1])
    swi = empty.with_array((head * 100 * shading + rng.rayleigh(1, shape)).astype(np.float32))
    seen = segmenter_input(swi)
    low, high = (Volume(seen.array[0], seen.ijk_to_ras).ras_of(ijk) for ijk in ((0, 0, 0), seen.array.shape[1:]))
    assert (low[:2] <= (-70, -86)).all()
    assert (high[:2] >= (70, 86)).all(), "8 mm of air and more remain"
    assert (high[:2] - low[:2] <= (156, 188)).all(), "not more than 16 mm"
    assert seen.array.shape[3] == 30, "every slice"
    if not shading_per_mm:
        assert np.allclose(seen.array[1:3, 0, 0, 0] * 100, low[:2], atol=1.5), "the coordinates refer to the head still"


@pytest.mark.parametrize("air", [0.0, 4.0])
@pytest.mark.parametrize("shading_per_mm", [0.0, 0.01])
def test_the_head_is_found_stripped_or_not_and_in_spite_of_shading(air: float, shading_per_mm: float) -> None:
    rng = np.random.default_rng(1)
    voxels = np.stack(np.meshgrid(*map(np.arange, (159, 191, 80)), indexing="ij"), axis=-1)  # odd: half a pair remains
    ras = (voxels - [74, 100, 41]) * [1.0, 1.0, 2.0]
    radius = np.sqrt(((ras / [62, 78, 66]) ** 2).sum(axis=-1))
    head = (radius < 1) * 100 * np.exp(shading_per_mm * ras[..., 1]) * rng.uniform(0.8, 1.2, radius.shape)
    channels = segmenter_channels((head + air * rng.rayleigh(1, radius.shape)).astype(np.float32))
    assert np.allclose(np.moveaxis(channels[1:], 0, -1) * 100, ras, atol=4)


def test_the_box_of_a_brain_does_not_hang_on_the_last_bit_of_its_spacing() -> None:
    array = np.zeros((40, 40, 40), bool)
    array[15:25, 15:25, 15:25] = True
    boxes = [brain_box(Volume(array, np.diag([1.0, 1.0, 2.0 + last_bit, 1.0]))) for last_bit in (-1e-7, 0.0, 1e-7)]
    assert boxes == [(slice(7, 33), slice(7, 33), slice(11, 29))] * 3
