from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from CMBDetectorLib.candidate import Location
from CMBDetectorLib.islands import SPECK_ML, small_pieces
from CMBDetectorLib.localize import OUTSIDE, Segmentation, locate
from CMBDetectorLib.models import Model
from CMBDetectorLib.regions import Region, Side
from CMBDetectorLib.segment import _around_tissue, _on_scan, segment, weighed
from CMBDetectorLib.volume import Volume

BRAIN_MM = 40.0
DEEP_MM = 15.0


class Shells(nn.Module):
    """Knows a head by heart from its coordinates: frontal shell, thalamus inside, cerebellum below, left is -R.

    It is sure of it: what a network is unsure of is weighed.
    """

    def forward(self, x: Tensor) -> Tensor:
        r, a, s = (100 * x[:, axis] for axis in (1, 2, 3))
        radius = torch.sqrt(r**2 + a**2 + s**2)
        answer = torch.full((len(x), 15, *x.shape[2:]), -10.0)
        answer[:, 0] = 3 * (radius - BRAIN_MM)
        answer[:, 9] = 3 * torch.minimum(BRAIN_MM - radius, torch.minimum(radius - DEEP_MM, s + 20))
        answer[:, 4] = 3 * (DEEP_MM - radius)
        answer[:, 2] = 3 * torch.minimum(BRAIN_MM - radius, -20 - s)
        answer[:, 14] = -r
        return answer


def model_of(module: nn.Module) -> Model:
    """A model around a module, which need not be TorchScript to be called."""
    return Model(module.eval(), {}, torch.device("cpu"), torch.float32, "cpu, float32")  # type: ignore[arg-type]


def quiet(stage: str, fraction: float, message: str) -> None:
    assert stage == "localize" and 0 <= fraction <= 1 and message


def head(matrix: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    """A bright ball of 44 mm around the origin on a given grid."""
    empty = Volume(np.zeros(shape, np.float32), matrix)
    return empty.with_array((np.linalg.norm(coordinates(empty), axis=-1) < 44).astype(np.float32) * 100)


def coordinates(volume: Volume) -> np.ndarray:
    return volume.ras_of(np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), axis=-1))


AXIAL = np.array([[-0.9, 0, 0, 52], [0, -0.9, 0, 53], [0, 0, 3, -51], [0, 0, 0, 1]], float), (117, 119, 35)
SAGITTAL = np.array([[0, 0, 2, -51], [1, 0, 0, -52], [0, -1, 0, 50], [0, 0, 0, 1]], float), (105, 101, 52)


@pytest.fixture(scope="module")
def known_head() -> Segmentation:
    return segment(model_of(Shells()), head(*AXIAL), quiet)


@pytest.mark.parametrize("stored", [AXIAL, SAGITTAL])
def test_regions_lie_where_the_network_saw_them_however_the_scan_is_stored(stored: tuple) -> None:
    swi = head(*stored)
    found = segment(model_of(Shells()), swi, quiet)
    radius, s = np.linalg.norm(coordinates(swi), axis=-1), coordinates(swi)[..., 2]
    assert found.regions.array.shape == swi.array.shape and found.regions.array.dtype == np.uint8
    assert np.array_equal(found.regions.ijk_to_ras, swi.ijk_to_ras)
    assert (found.regions.array[radius < 13] == 4).all()
    assert (found.regions.array[(radius > 17) & (radius < 38) & (s > -18)] == 9).all()
    assert (found.regions.array[(radius < 38) & (s < -22)] == 2).all()
    assert not found.regions.array[radius > 42].any()
    assert found.brain.array[radius < 40].all() and not found.brain.array[radius > 45].any()


def test_edges_between_regions_are_smooth_below_the_network_grid(known_head: Segmentation) -> None:
    tissue = known_head.regions.array > 0
    volume_mm3 = tissue.sum() * np.prod(known_head.regions.spacing_mm)
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * BRAIN_MM**3, rel=0.02)
    radius = np.linalg.norm(coordinates(known_head.regions), axis=-1)
    assert tissue[radius < BRAIN_MM - 1].all() and not tissue[radius > BRAIN_MM + 1].any()


def test_what_is_unsure_is_rather_fluid_than_tissue_and_rather_lobar_than_deep() -> None:
    share = np.zeros((14, 1, 1, 4), np.float32)
    share[[0, 9], :, :, 0] = np.array([0.4, 0.6])[:, None, None]
    share[[0, 9], :, :, 1] = np.array([0.3, 0.7])[:, None, None]
    share[[3, 9], :, :, 2] = np.array([0.55, 0.45])[:, None, None]
    share[[3, 9], :, :, 3] = np.array([0.65, 0.35])[:, None, None]
    changed = weighed(share)
    assert changed.argmax(axis=0).ravel().tolist() == [0, 9, 9, 3]
    assert np.allclose(changed.sum(axis=0), 1) and share[9, 0, 0, 0] == np.float32(0.6)


def test_a_scan_shows_no_tissue_where_the_network_is_unsure_of_it() -> None:
    class Unsure(Shells):
        def forward(self, x: Tensor) -> Tensor:
            answer = super().forward(x)
            at_edge = (answer[:, 9] > 0) & (answer[:, 9] < 15)  # 5 mm
            answer[:, 9][at_edge], answer[:, 0][at_edge] = 0.4, 0.0  # 60 and 40 %
            return answer

    swi = head(*AXIAL)
    tissue = segment(model_of(Unsure()), swi, quiet).regions.array > 0
    radius = np.linalg.norm(coordinates(swi), axis=-1)
    s = coordinates(swi)[..., 2]
    assert not tissue[(radius > 37) & (s > 0)].any() and tissue[(radius < 33) & (radius > 22) & (s > 0)].all()


def test_interpolation_to_a_scan_leaves_no_specks() -> None:
    rng = np.random.default_rng(3)
    rough = ndimage.zoom(rng.random((4, 8, 8, 6)), (1, 4, 4, 4), order=1)
    share = np.zeros((14, *rough.shape[1:]), np.float32)
    share[[0, 3, 5, 9]] = rough / rough.sum(axis=0)
    matrix = np.diag([1.0, 1.0, 2.0, 1.0])
    scan = Volume(np.zeros((61, 61, 46), np.float32), np.diag([0.5, 0.5, 1.0, 1.0]))
    labels = _on_scan(share, matrix, scan, lambda *_: None).array
    assert len(np.unique(labels)) == 4
    assert not small_pieces(labels, SPECK_ML / 0.00025, connectivity=3).any()


def test_a_network_that_finds_no_brain_gives_an_empty_map() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            answer = torch.zeros((len(x), 15, *x.shape[2:]))
            answer[:, 0] = 50
            return answer

    found = segment(model_of(Nothing()), head(*AXIAL), quiet)
    assert not found.regions.array.any() and not found.brain.array.any()
    assert locate((0, 0, 0), 4, found) == (None, OUTSIDE)


def placed(center: tuple[float, float, float], segmentation: Segmentation, diameter_mm: float = 4.0) -> Location:
    location, exclusion = locate(center, diameter_mm, segmentation)
    assert location is not None and exclusion == ""
    return location


def test_a_candidate_gets_region_side_and_distance_to_the_next_region(known_head: Segmentation) -> None:
    lobar = placed((-20, 10, 5), known_head)
    assert (lobar.region, lobar.sub_region, lobar.side) == (Region.LOBAR, 9, Side.LEFT)
    assert lobar.probability == 1.0
    assert lobar.boundary_mm == pytest.approx(np.linalg.norm([20, 10, 5]) - DEEP_MM, abs=1.5)
    deep = placed((4, 2, 1), known_head)
    assert (deep.region, deep.side) == (Region.DEEP, Side.RIGHT)
    below = placed((20, 0, -28), known_head)
    assert (below.region, below.side) == (Region.INFRATENTORIAL, Side.RIGHT)
    assert np.isnan(placed((0, 39, 5), known_head).boundary_mm)


def test_only_structures_that_cross_the_midline_can_be_midline(known_head: Segmentation) -> None:
    assert placed((1, 0, -28), known_head).side == Side.MIDLINE
    assert placed((2.8, 0, -28), known_head).side == Side.RIGHT
    assert placed((-6, 0, -28), known_head).side == Side.LEFT
    assert placed((1, 30, 0), known_head).side == Side.RIGHT


def test_near_a_boundary_the_vote_is_shared(known_head: Segmentation) -> None:
    at_border = placed((0, DEEP_MM + 0.7, 0), known_head)
    assert at_border.region == Region.LOBAR
    assert 0.5 < at_border.probability < 0.95
    assert at_border.boundary_mm < 3
    assert (at_border.or_region, at_border.region_in_words) == (Region.DEEP, "lobar or deep")
    within = placed((0, DEEP_MM - 1.2, 0), known_head)
    assert (within.or_region, within.region_in_words) == (Region.LOBAR, "deep or lobar")
    above = placed((20, 10, -18), known_head)
    assert (above.next_region, above.region_in_words) == (Region.INFRATENTORIAL, "lobar or infratentorial")


def test_away_from_a_boundary_one_region_is_named_and_how_far_the_next_one_lies(known_head: Segmentation) -> None:
    away = placed((20, 10, 5), known_head)
    assert away.boundary_mm > 3
    assert (away.next_region, away.or_region, away.region_in_words) == (Region.DEEP, None, "lobar")
    alone = placed((0, 39, 5), known_head)
    assert (alone.next_region, alone.or_region) == (None, None)


def test_sub_region_and_side_have_probabilities_of_their_own() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[:6], labels[6:12], labels[12:] = 9, 10, 3
    regions = Volume(labels, np.diag([1.0, 1.0, 1.0, 1.0]))
    left = regions.with_array(np.full(labels.shape, 0.3, np.float32))
    segmentation = Segmentation(regions, regions.with_array(labels > 0), left)
    mirrored = replace(segmentation, left=left.with_array(1 - left.array))
    within = placed((8, 10, 10), segmentation)
    assert (within.sub_region, within.probability, within.side) == (10, 1.0, Side.RIGHT)
    other = placed((8, 10, 10), mirrored)
    assert other.side == Side.LEFT and other.side_probability == pytest.approx(0.7)
    assert 0.8 < within.sub_region_probability < 1.0 and within.side_probability == pytest.approx(0.7)
    between = placed((11.5, 10, 10), segmentation, diameter_mm=20)
    assert between.region == Region.LOBAR and between.sub_region == 10
    assert between.sub_region_probability < between.probability < 1.0


def test_at_the_midline_no_side_is_probable(known_head: Segmentation) -> None:
    assert math.isnan(placed((1, 0, -28), known_head).side_probability)


def test_a_candidate_with_little_or_no_tissue_around_it_is_excluded(known_head: Segmentation) -> None:
    for distance_mm in (39.0, 41.0):
        assert locate((distance_mm, 0, 0), 4, known_head)[1] == ""
    location, exclusion = locate((44.0, 0, 0), 8, known_head)
    assert location is not None and location.sub_region == 9 and exclusion == OUTSIDE
    assert locate((44.5, 0, 0), 4, known_head)[1] == OUTSIDE
    assert locate((60, 0, 0), 4, known_head) == (None, OUTSIDE)
    assert locate((500, 0, 0), 4, known_head) == (None, OUTSIDE)


def test_a_large_lesion_that_was_taken_for_fluid_is_not_outside_tissue() -> None:
    empty = Volume(np.zeros((60, 60, 60), np.uint8), np.diag([1.0, 1.0, 1.0, 1.0]))
    hole_mm = np.linalg.norm(coordinates(empty) - 30.0, axis=-1)
    left = empty.with_array(np.ones(empty.array.shape, np.float32))
    around = Segmentation(empty.with_array(np.where(hole_mm < 4, 0, 9).astype(np.uint8)), empty, left)
    location, exclusion = locate((30, 30, 30), 8, around)
    assert location is not None and location.sub_region == 9 and exclusion == ""
    assert locate((30, 30, 30), 4, around) == (None, OUTSIDE)


def test_a_group_with_many_small_votes_wins_over_one_large_sub_region() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[:8], labels[8:14], labels[14:] = 9, 3, 4
    grid = np.diag([1.0, 1.0, 1.0, 1.0])
    regions = Volume(labels, grid)
    segmentation = Segmentation(regions, regions.with_array(labels > 0), regions.with_array(np.ones(labels.shape)))
    found = placed((11, 10, 10), segmentation, diameter_mm=12)
    assert (found.region, found.sub_region, found.side) == (Region.DEEP, 3, Side.LEFT)


@pytest.mark.parametrize(("label", "s_mm"), [(2, 0.0), (2, -1.5), (9, -1.5)])
def test_what_lies_below_the_lowest_slice_is_on_neither_side(label: int, s_mm: float) -> None:
    regions = Volume(np.full((20, 20, 20), label, np.uint8), np.eye(4))
    left = regions.with_array(np.ones(regions.array.shape, np.float32))
    found = placed((10, 10, s_mm), Segmentation(regions, regions, left))
    assert found.side == Side.LEFT
    right = placed((10, 10, s_mm), Segmentation(regions, regions, left.with_array(1 - left.array)))
    assert right.side == Side.RIGHT


@pytest.mark.parametrize("slice_mm", [1.2, 2.0, 3.0, 5.0, 6.0])
def test_regions_drawn_around_tissue_alone_are_those_drawn_everywhere(slice_mm: float) -> None:
    share = np.zeros((14, 40, 40, 40), np.float32)
    share[9, 14:27, 12:26, 13:28] = 0.99  # flat, so that half of a thick slice decides
    share[9] += 0.0006 * (share[9] == 0)
    share[0] = 1 - share[9]
    matrix = np.diag([1.0, 1.0, 2.0, 1.0])
    for shift_mm in (0.0, 0.7, 1.9):
        to_ras = np.diag([0.8, 1.1, slice_mm, 1.0])
        to_ras[2, 3] = shift_mm
        scan = Volume(np.zeros((50, 36, int(80 / slice_mm)), np.float32), to_ras)
        box, moved = _around_tissue(share[0], matrix, scan.spacing_mm)
        assert share[(0, *box)].size < 0.3 * share[0].size
        whole, part = (
            _on_scan(shares, ijk_to_ras, scan, lambda *_: None).array
            for shares, ijk_to_ras in ((share, matrix), (share[(slice(None), *box)], moved))
        )
        assert whole.any()
        assert np.array_equal(part, whole)
