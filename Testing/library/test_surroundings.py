from __future__ import annotations

import numpy as np
import pytest

from CMBDetectorLib.candidate import Candidate
from CMBDetectorLib.detect import Detection
from CMBDetectorLib.localize import OUTSIDE, Segmentation
from CMBDetectorLib.pipeline import _candidate
from CMBDetectorLib.surroundings import Brightness, brightness, in_fluid
from CMBDetectorLib.volume import Volume

AXIAL = np.array([[0.5, 0, 0, -30], [0, 0.5, 0, -30], [0, 0, 2, -30], [0, 0, 0, 1]], float), (121, 121, 31)
SAGITTAL = np.array([[0, 0, 0.5, -30], [2, 0, 0, -30], [0, 0.5, 0, -30], [0, 0, 0, 1]], float), (31, 121, 121)
BRAIN_MM = 28.0
HALF_SULCUS_MM = 3.0
SULCUS, GYRUS, SHORE = (0.0, 0.0, 0.0), (12.0, 0.0, 0.0), (HALF_SULCUS_MM + 1.5, 0.0, 0.0)
DIAMETER_MM = 3.0


def head(fluid: float, stored: tuple = AXIAL, *, spots: tuple = (SULCUS, GYRUS, SHORE), found: bool = True) -> tuple:
    """SWI and regions of a ball of tissue (100) that a sulcus cuts in two, with black spots; perhaps not found."""
    matrix, shape = stored
    empty = Volume(np.zeros(shape, np.float32), matrix)
    place = empty.ras_of(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))
    brain = np.linalg.norm(place, axis=-1) < BRAIN_MM
    sulcus = np.abs(place[..., 0]) < HALF_SULCUS_MM
    swi = np.where(brain, np.where(sulcus, fluid, 100.0), 5.0)
    swi += np.random.default_rng(0).normal(0, 2, shape)
    for spot in spots:
        swi[np.linalg.norm(place - spot, axis=-1) < DIAMETER_MM / 2] = 10
    tissue = brain & ~(sulcus & (found | (np.abs(place[..., 1]) > 10)))
    left = empty.with_array((place[..., 0] < 0).astype(np.float32))
    regions = empty.with_array(np.where(tissue, 9, 0).astype(np.uint8))
    return empty.with_array(swi.astype(np.float32)), Segmentation(regions, empty.with_array(brain), left)


def known(swi: Volume, segmentation: Segmentation) -> Brightness:
    measured = brightness(swi, segmentation)
    assert measured is not None
    return measured


@pytest.mark.parametrize("stored", [AXIAL, SAGITTAL])
@pytest.mark.parametrize("fluid", [55.0, 88.0, 112.0, 180.0])
def test_a_vein_in_a_sulcus_lies_in_fluid_and_a_microbleed_in_a_gyrus_or_at_its_surface_does_not(fluid, stored):
    swi, segmentation = head(fluid, stored)
    measured = known(swi, segmentation)
    assert measured.fluid == pytest.approx(fluid / 100, abs=0.03)
    assert in_fluid(SULCUS, DIAMETER_MM, swi, segmentation, measured)
    assert not in_fluid(GYRUS, DIAMETER_MM, swi, segmentation, measured)
    assert not in_fluid(SHORE, DIAMETER_MM, swi, segmentation, measured)


def test_shading_of_the_coil_makes_no_fluid_of_tissue():
    swi, segmentation = head(70.0)
    rows = np.linspace(1.0, 2.0, swi.array.shape[1])[None, :, None]
    shaded = swi.with_array(swi.array * rows)
    measured = known(shaded, segmentation)
    assert measured.fluid == pytest.approx(0.7, abs=0.03)
    for a in (-12.0, 12.0):
        assert not in_fluid((12, a, 0), DIAMETER_MM, shaded, segmentation, measured)
        assert in_fluid((0, a, 0), DIAMETER_MM, shaded, segmentation, measured)


def test_what_looks_like_fluid_deep_in_tissue_is_none():
    swi, segmentation = head(60.0, found=False)  # the sulcus is drawn over where its vein is, so nothing is known there
    assert not in_fluid(SULCUS, DIAMETER_MM, swi, segmentation, known(swi, segmentation))


def test_a_microbleed_larger_than_its_box_is_not_in_fluid_darker_than_tissue():
    swi, segmentation = head(60.0, spots=(GYRUS,))
    assert not in_fluid(GYRUS, 0.6 * DIAMETER_MM, swi, segmentation, known(swi, segmentation))


@pytest.mark.parametrize("fluid", [95.0, 100.0, 105.0])
def test_a_scan_whose_fluid_looks_like_tissue_says_nothing(fluid):
    assert brightness(*head(fluid)) is None


def test_a_scan_that_shows_hardly_any_fluid_says_nothing():
    swi, segmentation = head(60.0)
    whole = Segmentation(segmentation.brain.with_array(segmentation.brain.array * 9), segmentation.brain,
                         segmentation.left)  # fmt: skip
    assert brightness(swi, whole) is None


def test_a_place_off_the_scan_is_not_in_fluid():
    swi, segmentation = head(60.0)
    assert not in_fluid((500, 0, 0), DIAMETER_MM, swi, segmentation, known(swi, segmentation))


def test_a_candidate_in_fluid_is_excluded_with_its_reason_and_keeps_its_region():
    beside_its_wall = (HALF_SULCUS_MM - 1.0, 0.0, 0.0)
    swi, segmentation = head(60.0, spots=(beside_its_wall, GYRUS))
    known_here = known(swi, segmentation)

    def candidate(place: tuple[float, float, float], shown: Brightness | None) -> Candidate:
        return _candidate(Detection(place, DIAMETER_MM, 0.9), swi, None, segmentation, shown, lambda *_: None)

    found = candidate(beside_its_wall, known_here)
    assert found.exclusion == "in fluid" and found.location is not None and found.location.sub_region == 9
    assert candidate(GYRUS, known_here).exclusion == candidate(beside_its_wall, None).exclusion == ""
    assert candidate((0, 40, 0), known_here).exclusion == OUTSIDE
