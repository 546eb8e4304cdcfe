"""Edges of tissue by brightness, in a head of known shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from CMBDetectorLib.edges import draw_edges

Array = npt.NDArray[np.float32]
FRONTAL, BASAL_GANGLIA, THALAMUS = 9, 3, 4
R_MM, A_MM, S_MM = np.meshgrid(*(np.arange(n) * mm for n, mm in ((80, 1.0), (80, 1.0), (40, 2.0))), indexing="ij")
DISTANCE_MM = np.sqrt((R_MM - 40) ** 2 + (A_MM - 40) ** 2 + (S_MM - 40) ** 2)  # from the middle of the head


def head() -> npt.NDArray[np.uint8]:
    """Labels at 1 x 1 x 2 mm: a ball of tissue with a deep core, a ventricle in its middle and narrow sulci."""
    labels = np.where(DISTANCE_MM < 34, FRONTAL, 0)
    labels[DISTANCE_MM < 20] = BASAL_GANGLIA
    labels[DISTANCE_MM < 11] = 0
    labels[(DISTANCE_MM > 22) & (R_MM % 12 < 2)] = 0
    return labels.astype(np.uint8)


def seen(labels: npt.NDArray[np.uint8], fluid: float, seed: int = 0) -> Array:
    """Tissue of 1 under shading, fluid, dark bone around, and noise."""
    bright = np.where(labels > 0, 1.0, fluid) * np.exp(0.2 * (R_MM / 80 - 0.5))
    bright[DISTANCE_MM > 36] = 0.1
    noise = 0.04 * np.random.default_rng(seed).standard_normal(labels.shape)
    return (ndimage.gaussian_filter(bright, 0.4) + noise).astype(np.float32)


def soft(labels: npt.NDArray[np.uint8], spread_mm: float = 3.0) -> Array:
    """What a network says that draws softly: class probabilities with edges spread over some 3 mm."""
    sigma = spread_mm, spread_mm, spread_mm / 2
    shares = np.stack([ndimage.gaussian_filter((labels == label).astype(np.float32), sigma) for label in range(14)])
    total: Array = (shares / shares.sum(axis=0)).astype(np.float32)
    return total


def overlap(probability: Array, labels: npt.NDArray[np.uint8]) -> float:
    found, true = probability.argmax(axis=0) > 0, labels > 0
    return float(2 * (found & true).sum() / (found.sum() + true.sum()))


@pytest.mark.parametrize("fluid", [0.6, 1.4])
def test_dark_or_bright_fluid_shows_the_sulci_that_the_network_drew_over(fluid: float) -> None:
    labels = head()
    before = soft(labels)
    after = draw_edges(before, seen(labels, fluid))
    assert overlap(after, labels) > overlap(before, labels) + 0.05 and overlap(after, labels) > 0.95
    assert np.allclose(after.sum(axis=0), 1, atol=1e-4)
    tissue_before, tissue_after = before[1:].sum(axis=0), after[1:].sum(axis=0)
    kept = np.abs(after[1:] * tissue_before - before[1:] * tissue_after).max()
    assert kept < 1e-3, "which region it is stays the network's"


@pytest.mark.parametrize("fluid", [0.6, 1.4])
def test_noise_of_single_voxels_makes_no_specks(fluid: float) -> None:
    labels = head()
    noise = 0.1 * np.random.default_rng(1).standard_normal(labels.shape).astype(np.float32)
    after = draw_edges(soft(labels), seen(labels, fluid) + noise)
    assert overlap(after, labels) > 0.95
    tissue = after.argmax(axis=0) > 0
    sizes = np.concatenate([np.bincount(ndimage.label(mask)[0].ravel())[1:] for mask in (tissue, ~tissue)])
    assert (sizes < 8).sum() < 10, "several hundred where each voxel is judged by itself"


def test_what_is_brighter_than_bright_fluid_is_fluid_too() -> None:
    labels = head()
    bright = seen(labels, fluid=1.4)
    bright[(labels == 0) & (DISTANCE_MM > 22) & (DISTANCE_MM < 34)] = 3.0
    assert overlap(draw_edges(soft(labels), bright), labels) > 0.95


def test_a_ventricle_of_bright_fluid_beside_deep_nuclei_is_fluid() -> None:
    labels = head()
    ventricle, core = DISTANCE_MM < 11, DISTANCE_MM < 9
    unsure = soft(labels, spread_mm=1.0)
    unsure[0, ventricle], unsure[BASAL_GANGLIA, ventricle] = 0.3, 0.7
    unsure[0, core], unsure[BASAL_GANGLIA, core] = 0.95, 0.05
    found = draw_edges(unsure, seen(labels, fluid=1.4)).argmax(axis=0)
    assert (found[ventricle] == 0).mean() > 0.9


def test_where_fluid_is_as_bright_as_tissue_little_is_changed() -> None:
    labels = head()
    before = soft(labels)
    after = draw_edges(before, seen(labels, fluid=1.0))
    assert ((after.argmax(axis=0) > 0) != (before.argmax(axis=0) > 0)).mean() < 0.01
    assert abs(overlap(after, labels) - overlap(before, labels)) < 0.01


@pytest.mark.parametrize("fluid", [0.6, 1.4])
def test_a_black_microbleed_stays_in_tissue(fluid: float) -> None:
    labels = head()
    bright = seen(labels, fluid)
    bright[14:18, 38:42, 19:21] = 0.0  # in the lobe, clear of the sulci
    after = draw_edges(soft(labels), bright)
    assert (labels[14:18, 38:42, 19:21] > 0).all()
    assert (after.argmax(axis=0)[14:18, 38:42, 19:21] > 0).all()


@pytest.mark.parametrize("nucleus", [BASAL_GANGLIA, THALAMUS])
def test_iron_as_dark_as_fluid_makes_no_holes_in_deep_nuclei(nucleus: int) -> None:
    labels = head()
    bright = seen(labels, fluid=0.6)
    nuclei = labels == BASAL_GANGLIA
    labels[nuclei] = nucleus
    bright[nuclei] *= 0.6
    before = soft(labels, spread_mm=1.0)
    before[1:, nuclei] *= 0.95
    before[0] = 1 - before[1:].sum(axis=0)
    after = draw_edges(before, bright)
    kept, drawn = ((shares.argmax(axis=0)[nuclei] == nucleus).sum() for shares in (after, before))
    assert kept > 0.97 * drawn > 0


@pytest.mark.parametrize("fluid", [0.6, 1.2, 1.4])
def test_a_large_hemorrhage_does_not_make_the_tissue_around_it_fluid(fluid: float) -> None:
    labels = head()
    distance_mm = np.sqrt((R_MM - 40) ** 2 + (A_MM - 18) ** 2 + (S_MM - 40) ** 2)
    bright = seen(labels, fluid)
    ring = (labels > 0) & (distance_mm > 9) & (distance_mm < 15)
    without = draw_edges(soft(labels), bright).argmax(axis=0)
    bright[distance_mm < 9] = 0.0
    found = draw_edges(soft(labels), bright).argmax(axis=0)
    assert (found[ring] == 0).sum() <= (without[ring] == 0).sum() + 0.05 * ring.sum()


def test_an_unsure_network_is_left_as_it_is() -> None:
    unsure = soft(head()) * 0.8
    unsure[0] = 1 - unsure[1:].sum(axis=0)
    assert draw_edges(unsure, seen(head(), 1.4)) is unsure


@pytest.mark.parametrize("fluid", [0.6, 1.4])
def test_any_linear_scale_gives_the_same_edges(fluid: float) -> None:
    labels = head()
    bright = seen(labels, fluid)
    once, scaled = (draw_edges(soft(labels), image) for image in (bright, (7 * bright - 3).astype(np.float32)))
    assert np.abs(once - scaled).max() < 1e-2


def test_a_scan_without_tissue_or_without_a_ventricle_is_left_as_it_is() -> None:
    nothing = soft(np.zeros((80, 80, 40), np.uint8))
    assert draw_edges(nothing, seen(head(), 1.4)) is nothing
    whole = head()
    whole[30:50, 30:50, 15:25] = BASAL_GANGLIA
    filled = soft(whole)
    assert draw_edges(filled, seen(whole, 1.4)) is filled
