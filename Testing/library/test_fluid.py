from __future__ import annotations

import numpy as np
import pytest

from CMBDetectorLib.candidate import Candidate
from CMBDetectorLib.detect import Detection
from CMBDetectorLib.fluid import IN_FLUID, Brightness, lies_in_fluid, measure_brightness
from CMBDetectorLib.localize import OUTSIDE, Segmentation
from CMBDetectorLib.pipeline import _candidate
from CMBDetectorLib.volume import Volume

AXIAL = np.array([[0.5, 0, 0, -30], [0, 0.5, 0, -30], [0, 0, 2, -30], [0, 0, 0, 1]], float), (121, 121, 31)
SAGITTAL = np.array([[0, 0, 0.5, -30], [2, 0, 0, -30], [0, 0.5, 0, -30], [0, 0, 0, 1]], float), (31, 121, 121)
COARSE = np.array([[2, 0, 0, -30], [0, 2, 0, -30], [0, 0, 4, -30], [0, 0, 0, 1]], float), (31, 31, 16)
BRAIN_MM = 28.0
HALF_SULCUS_MM = 3.0
SULCUS, GYRUS, WALL = (0.0, 0.0, 0.0), (12.0, 0.0, 0.0), (HALF_SULCUS_MM + 0.5, 0.0, 0.0)
DIAMETER_MM = 3.0


def head(
    fluid: float, stored: tuple = AXIAL, *, spots: tuple = (SULCUS, GYRUS, WALL), spot_mm: float = DIAMETER_MM
) -> tuple[Volume, Segmentation]:
    """SWI and regions of a ball of tissue (100) that a sulcus cuts in two, with black spots."""
    matrix, shape = stored
    empty = Volume(np.zeros(shape, np.float32), matrix)
    place = coordinates(empty)
    brain, sulcus = np.linalg.norm(place, axis=-1) < BRAIN_MM, np.abs(place[..., 0]) < HALF_SULCUS_MM
    swi = np.where(brain, np.where(sulcus, fluid, 100.0), 5.0)
    swi += np.random.default_rng(0).normal(0, 2, shape)
    for spot in spots:
        swi[np.linalg.norm(place - spot, axis=-1) < spot_mm / 2] = 10
    left = empty.with_array((place[..., 0] < 0).astype(np.float32))
    regions = empty.with_array(np.where(brain & ~sulcus, 9, 0).astype(np.uint8))
    return empty.with_array(swi.astype(np.float32)), Segmentation(regions, empty.with_array(brain), left)


def coordinates(volume: Volume) -> np.ndarray:
    return volume.ras_of(np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), axis=-1))


def measured(swi: Volume, segmentation: Segmentation) -> Brightness:
    brightness = measure_brightness(swi, segmentation)
    assert brightness is not None
    return brightness


def in_fluid(place: tuple[float, float, float], swi: Volume, segmentation: Segmentation) -> bool:
    return lies_in_fluid(place, DIAMETER_MM, swi, segmentation, measured(swi, segmentation))


def changed(swi: Volume, where: np.ndarray, value: float) -> Volume:
    return swi.with_array(np.where(where, value, swi.array).astype(np.float32))


@pytest.mark.parametrize("stored", [AXIAL, SAGITTAL])
@pytest.mark.parametrize("fluid", [55.0, 88.0, 112.0, 180.0])
def test_a_vein_in_a_sulcus_lies_in_fluid_and_a_microbleed_in_a_gyrus_or_at_its_surface_does_not(fluid, stored):
    case = head(fluid, stored)
    assert measured(*case).fluid == pytest.approx(fluid / 100, abs=0.03)
    assert in_fluid(SULCUS, *case)
    assert not in_fluid(GYRUS, *case)
    assert not in_fluid(WALL, *case)


@pytest.mark.parametrize("fluid", [60.0, 160.0])
def test_half_of_what_surrounds_a_candidate_must_be_fluid(fluid):
    for from_wall_mm, is_in_fluid in ((-1.5, True), (-0.7, True), (0.7, False), (1.5, False)):
        place = (HALF_SULCUS_MM + from_wall_mm, 0.0, 0.0)
        assert in_fluid(place, *head(fluid, spots=(place,))) == is_in_fluid


def test_shading_of_the_coil_makes_no_fluid_of_tissue():
    swi, segmentation = head(70.0)
    shaded = swi.with_array(swi.array * np.linspace(1.0, 2.0, swi.array.shape[1])[None, :, None])
    assert measured(shaded, segmentation).fluid == pytest.approx(0.7, abs=0.03)
    for a in (-12.0, 12.0):
        assert not in_fluid((HALF_SULCUS_MM + 0.5, a, 0), shaded, segmentation)
        assert in_fluid((0, a, 0), shaded, segmentation)


def test_iron_as_dark_as_fluid_beside_a_ventricle_is_tissue():
    swi, segmentation = head(60.0, spots=())
    place = coordinates(swi)
    nucleus = (place[..., 0] > HALF_SULCUS_MM) & (np.linalg.norm(place - (6, 0, 0), axis=-1) < 5)
    spot = (HALF_SULCUS_MM + 1.2, 0.0, 0.0)
    iron = changed(changed(swi, nucleus, 62), np.linalg.norm(place - spot, axis=-1) < DIAMETER_MM / 2, 10)
    assert not in_fluid(spot, iron, segmentation)
    assert not in_fluid((7.0, 0.0, 0.0), iron, segmentation)


@pytest.mark.parametrize("fluid", [60.0, 50.0, 40.0, 30.0])
def test_black_around_a_microbleed_that_outgrows_its_box_is_no_dark_fluid(fluid):
    assert not in_fluid(WALL, *head(fluid, spots=(WALL,), spot_mm=6.0))
    assert in_fluid(SULCUS, *head(fluid))


def test_a_large_gray_microbleed_as_bright_as_fluid_is_judged_by_what_lies_around_it():
    swi, segmentation = head(60.0, spots=())
    place = (HALF_SULCUS_MM + 0.2, 0.0, 0.0)
    gray = changed(swi, np.linalg.norm(coordinates(swi) - place, axis=-1) < 4, 62)
    assert not lies_in_fluid(place, 8.0, gray, segmentation, measured(gray, segmentation))


def test_tissue_that_is_a_little_darker_than_most_is_no_fluid():
    swi, segmentation = head(60.0, spots=())
    place = coordinates(swi)
    bank = (place[..., 0] > HALF_SULCUS_MM) & (place[..., 0] < HALF_SULCUS_MM + 4)
    assert not in_fluid(WALL, changed(swi, bank, 83), segmentation)


@pytest.mark.parametrize("fluid", [95.0, 100.0, 105.0])
def test_a_scan_whose_fluid_looks_like_tissue_says_nothing(fluid):
    assert measure_brightness(*head(fluid)) is None


@pytest.mark.parametrize(("radius_mm", "is_enough"), [(4.0, False), (9.0, True)])
def test_a_scan_that_shows_hardly_any_fluid_says_nothing(radius_mm, is_enough):
    swi, segmentation = head(60.0, spots=())
    fluid = np.linalg.norm(coordinates(swi), axis=-1) < radius_mm
    swi = changed(changed(swi, segmentation.brain.array, 100), fluid, 60)
    regions = segmentation.regions.with_array(np.where(segmentation.brain.array & ~fluid, 9, 0).astype(np.uint8))
    brightness = measure_brightness(swi, Segmentation(regions, segmentation.brain, segmentation.left))
    assert (brightness is not None) == is_enough


def test_voxels_so_coarse_that_little_surrounds_a_candidate_say_nothing():
    assert not in_fluid(SULCUS, *head(60.0, COARSE))


def test_a_place_off_the_scan_is_not_in_fluid():
    assert not in_fluid((500, 0, 0), *head(60.0))


def test_a_candidate_in_fluid_is_excluded_with_its_reason_and_keeps_its_region():
    beside_its_wall = (HALF_SULCUS_MM - 1.0, 0.0, 0.0)
    swi, segmentation = head(60.0, spots=(beside_its_wall, GYRUS))
    brightness = measured(swi, segmentation)

    def candidate(place: tuple[float, float, float], shown: Brightness | None) -> Candidate:
        return _candidate(Detection(place, DIAMETER_MM, 0.9), swi, None, segmentation, shown, lambda *_: None)

    found = candidate(beside_its_wall, brightness)
    assert found.exclusion == IN_FLUID and found.location is not None and found.location.sub_region == 9
    assert candidate(GYRUS, brightness).exclusion == candidate(beside_its_wall, None).exclusion == ""
    assert candidate((0, 40, 0), brightness).exclusion == OUTSIDE
