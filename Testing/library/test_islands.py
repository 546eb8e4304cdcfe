from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from CMBDetectorLib.islands import _specks, small_pieces, without_islands, without_specks


def probabilities(labels: np.ndarray) -> np.ndarray:
    """Class probabilities in which each voxel's label has 0.6 and frontal 0.3."""
    probability = np.full((14, *labels.shape), 0.1 / 12, np.float32)
    np.put_along_axis(probability, np.full((1, *labels.shape), 9), 0.3, axis=0)
    np.put_along_axis(probability, labels[None], 0.6, axis=0)
    return probability


def test_tissue_away_from_the_brain_is_dropped() -> None:
    labels = np.zeros((30, 30, 30), int)
    labels[5:20, 5:20, 5:20] = 9
    labels[25:28, 25:28, 25:28] = 10
    cleaned = without_islands(probabilities(labels), voxel_ml=0.008).argmax(axis=0)
    assert np.array_equal(cleaned, np.where(labels == 10, 0, labels))


def test_a_small_detached_piece_of_a_region_joins_its_surroundings() -> None:
    labels = np.full((30, 30, 30), 9)
    labels[:10] = 10
    labels[20:22, 20:22, 20:22] = 10
    cleaned = without_islands(probabilities(labels), voxel_ml=0.008).argmax(axis=0)
    assert (cleaned[10:] == 9).all() and (cleaned[:10] == 10).all()


def test_specks_go_to_the_region_around_them() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[5:35, 5:35, 5:35] = 9
    labels[5:35, 5:35, 25:35] = 10
    labels[5:15, 5:15, 5:15] = 3
    expected = labels.copy()
    labels[20, 20, 15] = 10
    labels[20, 20, 16] = 3  # beside another speck
    labels[30, 30, 33:35] = 9  # at the surface: more of its neighbors are 10 than none
    labels[12:14, 20:22, 20] = 0
    labels[2, 2, 2] = 9
    assert np.array_equal(without_specks(labels, voxel_ml=0.001), expected)
    assert np.array_equal(without_specks(expected, voxel_ml=0.001), expected)


def test_a_thin_sheet_of_fluid_that_moves_from_slice_to_slice_stays() -> None:
    labels = np.full((40, 40, 20), 9, np.uint8)
    labels[:3] = 0
    for s in range(2, 18):
        labels[10 + s, 10:16, s] = 0  # 6 voxels in every slice, joined by edges alone
    assert np.array_equal(without_specks(labels, voxel_ml=0.001), labels)


@pytest.mark.parametrize("voxels", [3, 8, 20])
def test_specks_are_the_small_pieces_that_are_joined_by_corners(voxels: int) -> None:
    rng = np.random.default_rng(voxels)
    rough = ndimage.gaussian_filter(rng.random((4, 40, 40, 30)), (0, 0.8, 0.8, 0.8))
    labels = rough.argmax(axis=0).astype(np.uint8)
    expected = small_pieces(labels, voxels, connectivity=3)
    assert expected.any() and not np.array_equal(expected, small_pieces(labels, voxels, connectivity=1))
    assert np.array_equal(_specks(labels, voxels), expected)


def test_the_largest_piece_of_a_region_stays_however_small() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:15, 5:15, 5:15] = 9
    labels[8, 8, 8:10] = 5
    assert np.array_equal(without_specks(labels, voxel_ml=0.001), labels)


def test_a_hole_that_a_lesion_makes_in_the_brain_is_filled_and_a_ventricle_is_not() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[5:35, 5:35, 5:35] = 9
    labels[20:23, 20:23, 20:23] = 0  # 6 mm
    labels[8:14, 8:14, 8:14] = 0  # 12 mm: 1.7 ml
    probability = without_islands(probabilities(labels), voxel_ml=0.008)
    assert np.allclose(probability[:, 20:23, 20:23, 20:23].sum(axis=0), 1, atol=1e-5)
    cleaned = probability.argmax(axis=0)
    assert (cleaned[20:23, 20:23, 20:23] == 9).all()
    assert not cleaned[8:14, 8:14, 8:14].any()
    assert not cleaned[:5].any()
