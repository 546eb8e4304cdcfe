from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from CMBDetectorLib.models import Model
from CMBDetectorLib.preprocessing import detector_input
from CMBDetectorLib.segment import segment
from CMBDetectorLib.shading import without_shading
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


def from_surface_coil() -> np.ndarray:
    """The field of a small coil 20 mm off the back of the head: no quadratic, about 4 times."""
    ras, _ = places_mm()
    return 1 / (1 + (np.linalg.norm(ras - [10.0, -86.0, 20.0], axis=-1) / 90) ** 2)


def shaded(swi: Volume, shading: np.ndarray) -> Volume:
    return swi.with_array((swi.array * shading).astype(np.float32))


@pytest.mark.parametrize(
    ("shading", "left_over"),
    [(from_rim(5.0), 1.1), (from_side(5.0), 1.1), (from_rim(0.3), 1.1), (from_surface_coil(), 1.2)],
    ids=["rim", "side", "middle", "surface coil"],
)
def test_strong_shading_is_taken_out_though_veins_and_fluid_lie_in_the_brain(
    shading: np.ndarray, left_over: float
) -> None:
    swi, brain = brain_of_noise()
    left = (without_shading(shaded(swi, shading), brain).array / swi.array)[brain.array]
    assert times(shading[brain.array]) > 3
    assert times(left) < left_over
    assert np.median(left) == pytest.approx(np.median(shading[brain.array]), rel=0.2)


def times(values: np.ndarray) -> float:
    low, high = np.percentile(values, [2, 98])
    return float(high / low)


@pytest.mark.parametrize(("strength", "is_taken_out"), [(1.8, False), (2.3, True)])
def test_shading_is_taken_out_from_twice_as_bright_on(strength: float, is_taken_out: bool) -> None:
    swi, brain = brain_of_noise()
    ras, _ = places_mm()
    r = ras[..., 0] / np.ptp(np.percentile(ras[brain.array][:, 0], [2, 98]))
    scan = shaded(swi, strength**r)
    assert times(strength ** r[brain.array]) == pytest.approx(strength, rel=0.01)
    assert (without_shading(scan, brain) is not scan) == is_taken_out


@pytest.mark.parametrize("brightness", [1e-6, 0.05, 0.2])
def test_a_third_of_the_brain_that_is_dark_is_no_shading(brightness: float) -> None:
    swi, brain = brain_of_noise()
    ras, _ = places_mm()
    damaged = shaded(swi, np.where(ras[..., 2] < -14, brightness, 1.0))
    assert 0.25 < (brain.array & (ras[..., 2] < -14)).sum() / brain.array.sum() < 0.4
    found = without_shading(damaged, brain)
    healthy = brain.array & (ras[..., 2] > -8)
    assert times((found.array / damaged.array)[healthy]) < 1.1


@pytest.mark.parametrize("brightness", [1e-6, 0.05])
def test_shading_is_taken_out_though_a_third_of_the_mask_holds_no_signal(brightness: float) -> None:
    swi, brain = brain_of_noise()
    ras, _ = places_mm()
    scan = shaded(swi, from_side(5.0) * np.where(ras[..., 2] < -14, brightness, 1.0))
    healthy = brain.array & (ras[..., 2] > -8)
    assert times((scan.array / swi.array)[healthy]) > 2.5
    assert times((without_shading(scan, brain).array / swi.array)[healthy]) < 1.1


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


@pytest.mark.parametrize(("size_mm", "is_taken_out"), [(0.0, False), (28.0, False), (36.0, True)])
def test_hardly_any_brain_leaves_the_scan_as_it_is(size_mm: float, is_taken_out: bool) -> None:
    swi, _ = brain_of_noise()
    ras, _ = places_mm()
    scan = shaded(swi, 5.0 ** (ras[..., 0] / 25))
    cube = swi.with_array((np.abs(ras) < size_mm / 2).all(axis=-1))  # 343 and 729 voxels of 4 mm
    assert (without_shading(scan, cube) is not scan) == is_taken_out


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


@pytest.mark.parametrize(("strength", "looks"), [(1.0, 1), (12.0, 2)])
def test_the_segmenter_looks_again_without_the_shading_where_that_is_strong(strength: float, looks: int) -> None:
    swi, brain = brain_of_noise()
    network = ByBrightness()
    model = Model(network, {}, torch.device("cpu"), torch.float32, "cpu, float32")  # type: ignore[arg-type]
    plain = segment(model, swi, lambda *_: None)
    network.shown.clear()
    found = segment(model, shaded(swi, from_side(strength)), lambda *_: None)
    assert len(network.shown) == looks
    tissue = found.regions.array > 0
    assert (tissue == (plain.regions.array > 0))[brain.array].mean() > 0.97
    assert (found.brain.array == plain.brain.array).mean() > 0.995
    if looks == 2:
        first = network.shown[0] > 0
        assert (first != (network.shown[1][: first.shape[0], : first.shape[1]] > 0)).float().mean() > 0.05
