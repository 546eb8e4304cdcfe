from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from CMBDetectorLib.models import Model
from CMBDetectorLib.preprocessing import detector_input
from CMBDetectorLib.segment import segment
from CMBDetectorLib.shading import STRONG, without_shading
from CMBDetectorLib.volume import Volume

SHAPE, SPACING_MM = (130, 150, 45), (1.1, 1.1, 3.0)
BRAIN_MM = (55.0, 66.0, 52.0)


def places_mm() -> tuple[np.ndarray, np.ndarray]:
    matrix = np.diag([*SPACING_MM, 1.0])
    matrix[:3, 3] = -0.5 * (np.array(SHAPE) - 1) * SPACING_MM
    indices = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return Volume(np.zeros(SHAPE), matrix).ras_of(indices), matrix


def brain_of_noise() -> tuple[Volume, Volume]:
    """A brain whose tissue varies by 4 %, with a tenth black veins and a fifth bright fluid, in dim surroundings."""
    ras, matrix = places_mm()
    rng = np.random.default_rng(3)
    brain = ((ras / BRAIN_MM) ** 2).sum(axis=-1) < 1
    kind = blocks(rng.random((33, 38, 15)))
    values = 100 * (1 + 0.04 * rng.standard_normal(SHAPE))
    values = np.where(kind < 0.1, 0.3, np.where(kind > 0.8, 1.4, 1.0)) * values
    return Volume((values * np.where(brain, 1, 0.1)).astype(np.float32), matrix), Volume(brain, matrix)


def blocks(values: np.ndarray) -> np.ndarray:
    """One number per block of 4 x 4 x 3 voxels."""
    return np.kron(values, np.ones((4, 4, 3)))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def from_rim(times: float) -> np.ndarray:
    ras, _ = places_mm()
    return times ** np.minimum(((ras / BRAIN_MM) ** 2).sum(axis=-1), 1)


def from_side(times: float) -> np.ndarray:
    ras, _ = places_mm()
    return times ** ((ras @ [0.6, 0.0, 0.8]) / 110).clip(-0.5, 0.5)


def shaded(swi: Volume, shading: np.ndarray) -> Volume:
    return swi.with_array((swi.array * shading).astype(np.float32))


@pytest.mark.parametrize("shading", [from_rim(5.0), from_side(5.0), from_rim(0.3)], ids=["rim", "side", "middle"])
def test_strong_shading_is_taken_out_though_veins_and_fluid_lie_in_the_brain(shading: np.ndarray) -> None:
    swi, brain = brain_of_noise()
    left = (without_shading(shaded(swi, shading), brain).array / swi.array)[brain.array]
    assert np.ptp(np.log(np.percentile(shading[brain.array], [2, 98]))) > np.log(3)
    assert np.ptp(np.log(np.percentile(left, [2, 98]))) < np.log(1.1)
    assert np.median(left) == pytest.approx(np.median(shading[brain.array]), rel=0.2)


def test_a_scan_that_is_shaded_like_those_trained_on_stays_as_it_is() -> None:
    swi, brain = brain_of_noise()
    weak = shaded(swi, from_rim(0.9 * STRONG))
    assert without_shading(weak, brain) is weak


def test_beyond_the_brain_the_shading_goes_on_no_further_than_in_it() -> None:
    swi, brain = brain_of_noise()
    scan = shaded(swi, from_side(5.0))
    taken = scan.array / without_shading(scan, brain).array
    inside = taken[brain.array]
    assert taken.min() >= 0.95 * inside.min() and taken.max() <= 1.05 * inside.max()


def test_a_brain_on_a_coarser_grid_and_a_scan_stored_otherwise_give_the_same() -> None:
    swi, brain = brain_of_noise()
    scan = shaded(swi, from_side(5.0))
    expected = without_shading(scan, brain).array
    matrix = scan.ijk_to_ras.copy()
    matrix[:3, 3] += matrix[:3, 0] * (SHAPE[0] - 1)
    matrix[:, 0] *= -1
    matrix = matrix[:, [2, 0, 1, 3]]
    turned = without_shading(Volume(np.transpose(scan.array[::-1], (2, 0, 1)), matrix), brain)
    assert np.allclose(turned.ijk_to_ras, matrix)
    assert np.allclose(np.transpose(turned.array, (1, 2, 0))[::-1], expected, rtol=1e-4)
    coarse = brain.ijk_to_ras @ np.diag([2, 2, 1, 1])
    found = without_shading(scan, Volume(brain.array[::2, ::2], coarse)).array
    assert np.abs(np.log(found / expected))[brain.array].max() < 0.05


def test_hardly_any_brain_leaves_the_scan_as_it_is() -> None:
    swi, brain = brain_of_noise()
    few = np.zeros(SHAPE, bool)
    few[60:70, 60:70, 20:23] = True
    scan = shaded(swi, from_side(5.0))
    assert without_shading(scan, brain.with_array(few)) is scan
    assert without_shading(scan, brain.with_array(np.zeros(SHAPE, bool))) is scan


def test_strong_shading_does_not_reach_the_detector_at_the_brain_surface_either() -> None:
    swi, brain = brain_of_noise()
    plain = detector_input(swi, None, brain).array[0]
    found = detector_input(shaded(swi, from_rim(5.0)), None, brain).array[0]
    assert np.percentile(np.abs(found - plain)[plain != 0], 99) < 0.05


class ByBrightness(nn.Module):
    """Calls tissue whatever is brighter than the head is on average, and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x[0, 0])
        answer = torch.full((len(x), 15, *x.shape[2:]), -10.0)
        answer[:, 9] = 5 * x[:, 0]
        answer[:, 0] = -answer[:, 9]
        return answer


@pytest.mark.parametrize(("times", "looks"), [(1.0, 1), (5.0, 2)])
def test_the_segmenter_looks_again_without_the_shading_where_that_is_strong(times: float, looks: int) -> None:
    swi, brain = brain_of_noise()
    network = ByBrightness()
    model = Model(network, {}, torch.device("cpu"), torch.float32, "cpu, float32")  # type: ignore[arg-type]
    found = segment(model, shaded(swi, from_side(times)), lambda *_: None)
    assert len(network.shown) == looks
    assert found.regions.array[brain.array].astype(bool).mean() > 0.85
    ras, _ = places_mm()
    assert not found.regions.array[np.linalg.norm(ras / (np.array(BRAIN_MM) + 4), axis=-1) > 1].any()
