"""Lesions put into training crops on the fly, against the implants of whole scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from CMBDetectorLib.networks.anchors import SPACING_MM
from CMBDetectorLib.simulation.acquisition import homodyne
from CMBDetectorLib.simulation.case import LARGEST_MM, appearance
from CMBDetectorLib.simulation.implant import voxel_factor
from CMBDetectorLib.simulation.sources import Source, microbleed
from CMBDetectorLib.training.implants import (
    CALCIFICATION,
    CALCIFIED_SPOT,
    DIFFUSE_CALCIFICATION,
    DIFFUSE_MICROBLEED,
    FILTER_MM,
    RAGGED_CALCIFICATION,
    RAGGED_MICROBLEED,
    SPOT,
    VESSEL,
    Kind,
    Scan,
    diffuse_calcification,
    diffuse_microbleed,
    factor_on_crop,
    implant,
    ragged_calcification,
    ragged_microbleed,
)
from CMBDetectorLib.training.painted import Spot
from CMBDetectorLib.training.targets import Lesions
from CMBDetectorLib.volume import Volume

SHAPE = (64, 64, 32)
THIN = Scan(rad_per_ppm=16.05, acquired_mm=0.5, slice_mm=1.0)
NO_MIMICS = np.empty((0, 3))
NONE = Lesions(np.empty((0, 3)), np.empty(0), np.empty(0, bool))


def plain_crop() -> tuple[np.ndarray, np.ndarray]:
    """Uniform brain with a dark border that belongs to no brain, and where its tissue is."""
    image = np.zeros((2, *SHAPE), np.float32)
    image[0, 4:-4, 4:-4] = 0.01
    tissue = np.zeros(SHAPE, bool)
    tissue[20:-20, 20:-20, 10:-10] = True
    return image, tissue


def test_the_factor_on_a_crop_is_that_on_a_scan_of_the_same_voxels():
    source = microbleed(np.array([15.2, 16.1, 15.3]), 0, np.random.default_rng(0))
    found, expected = factor_on_crop(source, SHAPE, THIN), np.ones(SHAPE, complex)
    assert found is not None
    scan = Volume(np.zeros(SHAPE, np.float32), np.diag([*SPACING_MM, 1.0]))
    on_scan = voxel_factor(source, scan, THIN.rad_per_ppm)
    assert on_scan is not None
    expected[on_scan[0]] = on_scan[1].numpy()
    assert np.abs(found[1].numpy() - expected[found[0]]).max() < 0.1
    assert np.abs(found[1].numpy() - expected[found[0]]).mean() < 0.005


def test_a_thick_slice_shows_less_of_a_small_source_without_susceptibility():
    source = Source(
        kind="microbleed", balls_mm=np.full((1, 3), 16.0), radii_mm=np.array([0.75]), chi_ppm=0.0, inside_signal=0.2
    )
    losses = []
    for slice_mm in (1.0, 2.0, 3.0):
        found = factor_on_crop(source, SHAPE, replace(THIN, slice_mm=slice_mm))
        assert found is not None
        losses.append(1 - float(found[1].abs().min()))
    assert losses[0] > losses[1] > losses[2] > 0


def test_an_implanted_microbleed_is_dark_paramagnetic_and_a_lesion():
    image, tissue = plain_crop()
    darker, brighter = 0, 0
    for seed in range(12):
        changed, lesions = implant(image, tissue, NONE, NO_MIMICS, THIN, 1, np.random.default_rng(seed))
        assert lesions.center_mm.shape == (1, 3) and lesions.diameter_mm[0] > 0
        r, a, s = np.rint(lesions.center_mm[0] / SPACING_MM).astype(int)
        near = changed[:, r - 3 : r + 4, a - 3 : a + 4, s - 2 : s + 3]
        darker += bool(near[0].min() < image[0, r, a, s] - 0.2)
        brighter += bool(near[1].max() > 0.05)
        assert (changed[:, :4] == 0).all(), "outside the brain stays empty"
    assert darker >= 9 and brighter >= 9


def test_an_implanted_calcification_is_no_lesion_and_has_the_opposite_phase():
    image, tissue = plain_crop()
    changed, lesions = implant(image, tissue, NONE, NO_MIMICS, THIN, 1, np.random.default_rng(2), kind=CALCIFICATION)
    assert not lesions.present and len(lesions.center_mm) == 0
    place = np.unravel_index(changed[0].argmin(), SHAPE)
    r, a, s = (int(i) for i in place)
    assert changed[0, r, a, s] < -0.3
    above, below = changed[1, r, a, s + 3 : s + 5].mean(), changed[1, r, a, s - 4 : s - 2].mean()
    assert above < 0 and below < 0, "the field at the poles of diamagnetic matter is weaker"


def test_sources_keep_their_distance_from_lesions_that_are_there():
    image, tissue = plain_crop()
    tissue[:] = False
    tissue[30:34, 30:34, 15:17] = True
    there = Lesions(np.array([[16.0, 16.0, 16.0]]), np.array([3.0]), np.array([True]))
    changed, lesions = implant(image, tissue, there, NO_MIMICS, THIN, 3, np.random.default_rng(0))
    assert len(lesions.center_mm) == 1 and torch.equal(torch.tensor(changed), torch.tensor(image))


def test_a_crop_without_tissue_stays_as_it_is():
    image, tissue = plain_crop()
    changed, lesions = implant(image, np.zeros_like(tissue), NONE, NO_MIMICS, THIN, 3, np.random.default_rng(0))
    assert changed is image and not lesions.present


def test_sources_keep_their_distance_from_mimics() -> None:
    image, tissue = plain_crop()
    tissue[:] = False
    tissue[30:34, 30:34, 15:17] = True
    changed, lesions = implant(image, tissue, NONE, np.full((1, 3), 16.0), THIN, 3, np.random.default_rng(0))
    assert changed is image and not lesions.present


@pytest.mark.parametrize("slice_mm", [1.0, 2.0, 3.0])
def test_what_is_painted_lies_where_the_label_says(slice_mm: float) -> None:
    scan, shifts = replace(THIN, slice_mm=slice_mm), []
    for seed in range(10):  # thick slices show a source off its place, this way or that
        source = microbleed(np.array([16.0, 16.0, 16.0]), 0, np.random.default_rng(seed))
        found = factor_on_crop(source, SHAPE, scan, first_slice_mm=seed / 10 * slice_mm)
        assert found is not None
        loss = 1 - found[1].abs().numpy()
        index = np.moveaxis(np.indices(loss.shape), 0, -1) + [part.start for part in found[0]]
        center = np.average(index.reshape(-1, 3), axis=0, weights=loss.clip(0.05).ravel() - 0.05) * SPACING_MM
        shifts.append(center - source.center_mm)
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.15


@pytest.mark.parametrize(
    ("axis", "beyond", "scan", "most"),
    [(2, (64, 64, 48), replace(THIN, slice_mm=2.0), 0.005), (0, (96, 64, 32), replace(THIN, acquired_mm=0.9), 0.05)],
    ids=["below", "beside"],
)
def test_a_source_at_the_face_of_a_crop_looks_and_measures_as_in_a_larger_crop(
    axis: int, beyond: tuple[int, int, int], scan: Scan, most: float
) -> None:
    center = np.full(3, 16.0)
    center[axis] = 1.0
    source = microbleed(center, 0, np.random.default_rng(1))
    inside = replace(source, balls_mm=source.balls_mm + 16.0 * (np.arange(3) == axis))
    near, far = factor_on_crop(source, SHAPE, scan), factor_on_crop(inside, beyond, scan)
    assert near is not None and far is not None
    whole = torch.ones(beyond, dtype=torch.complex64)
    whole[far[0]] = far[1]
    expected = whole.narrow(axis, beyond[axis] - SHAPE[axis], SHAPE[axis])[near[0]]
    assert (near[1] - expected).abs().max() < most
    sizes = [appearance(found[2], np.array([0.5, 0.5, scan.slice_mm])).diameter_mm for found in (near, far)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02), "the label is that of the whole source"


def test_a_crop_between_thick_slices_is_what_interpolating_them_gives() -> None:
    scan = replace(THIN, slice_mm=3.0, acquired_mm=0.8)
    source = microbleed(np.array([16.0, 16.0, 15.0]), 0, np.random.default_rng(3))
    found = factor_on_crop(source, SHAPE, scan, first_slice_mm=-2.0)  # slices at -2, 1, 4, ... mm
    assert found is not None
    (_, _, depth), factor, on_slices = found
    sharpest = int((1 - on_slices.abs()).amax(dim=(0, 1)).argmax())
    loss = 1 - factor.abs()
    at = [k for k in range(depth.start, depth.stop) if (k + 2) % 3 == 0]
    shown = torch.stack([loss[:, :, k - depth.start] for k in at], dim=2)
    assert shown.max() < (1 - on_slices.abs()[:, :, sharpest]).max(), "the acquired voxel is larger than 0.5 mm"
    k = at[int(shown.amax(dim=(0, 1)).argmax())] - depth.start
    third = loss[:, :, k] / 3 * 2 + loss[:, :, k + 3] / 3
    assert torch.allclose(loss[:, :, k + 1], third, atol=1e-5), "a third of the way to the next slice"


def test_the_slices_of_a_crop_are_those_of_its_scan() -> None:
    source = microbleed(np.array([16.0, 16.0, 15.0]), 0, np.random.default_rng(5))
    thick = replace(THIN, slice_mm=3.0)
    on_one, between = (factor_on_crop(source, SHAPE, thick, first_slice_mm=mm) for mm in (0.0, 1.5))
    assert on_one is not None and between is not None
    assert (1 - on_one[2].abs()).max() > (1 - between[2].abs()).max(), "15 mm is a slice's center, then two's border"


def test_the_label_of_an_implant_is_the_size_of_what_is_painted() -> None:
    image, tissue = plain_crop()
    for seed in range(6):
        changed, lesions = implant(image, tissue, NONE, NO_MIMICS, THIN, 1, np.random.default_rng(seed))
        lost = (changed[0] + 1) < 0.8 * (image[0] + 1)
        painted_mm = np.cbrt(6 * lost.sum() * np.prod(SPACING_MM) / np.pi)
        assert painted_mm == pytest.approx(lesions.diameter_mm[0], rel=0.15, abs=0.4)


@pytest.mark.parametrize("seed", range(8))
def test_a_ragged_microbleed_is_labeled_where_and_as_wide_as_it_looks(seed: int) -> None:
    image, tissue = plain_crop()
    unmasked = replace(THIN, mask_power=0)
    rng = np.random.default_rng(seed)
    changed, lesions = implant(image, tissue, NONE, NO_MIMICS, unmasked, 1, rng, kind=RAGGED_MICROBLEED)
    lost = 1 - (changed[0] + 1) / (image[0] + 1)
    seen_mm = np.cbrt(6 * (lost > 0.2).sum() * np.prod(SPACING_MM) / np.pi)
    assert seen_mm == pytest.approx(lesions.diameter_mm[0], rel=0.15, abs=0.4)
    middle_mm = np.average(np.argwhere(lost > 0.2) * SPACING_MM, axis=0, weights=lost[lost > 0.2])
    assert np.linalg.norm(middle_mm - lesions.center_mm[0]) < 0.8


def test_a_diffuse_microbleed_is_labeled_where_and_as_wide_as_it_looks() -> None:
    image, tissue = plain_crop()
    visible = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changed, lesions = implant(image, tissue, NONE, NO_MIMICS, THIN, 1, rng, kind=DIFFUSE_MICROBLEED)
        if not lesions.counts.any():
            continue
        visible += 1
        lost = 1 - (changed[0] + 1) / (image[0] + 1)
        seen_mm = np.cbrt(6 * (lost > 0.2).sum() * np.prod(SPACING_MM) / np.pi)
        assert seen_mm == pytest.approx(lesions.diameter_mm[0], rel=0.2, abs=0.4)
        middle_mm = np.average(np.argwhere(lost > 0.2) * SPACING_MM, axis=0, weights=lost[lost > 0.2])
        assert np.linalg.norm(middle_mm - lesions.center_mm[0]) < 0.8
    assert visible >= 15


def test_most_diffuse_microbleeds_are_gray_where_ragged_ones_are_black() -> None:
    diffuse, ragged = (
        [contrast_of(make, seed) for seed in range(30)] for make in (diffuse_microbleed, ragged_microbleed)
    )
    assert np.median(diffuse) < 0.75 < 0.9 < np.median(ragged)


def contrast_of(make: Callable[..., Source], seed: int) -> float:
    found = factor_on_crop(make(np.full(3, 24.0), np.random.default_rng(seed)), (96, 96, 48), THIN)
    assert found is not None
    return appearance(found[2], np.array(SPACING_MM), THIN.mask_power).contrast


def test_diffuse_sources_fade_out_and_only_the_microbleeds_are_too_weak_for_the_phase_to_tell() -> None:
    bleeds, calcium = (
        [make(np.full(3, 24.0), np.random.default_rng(seed)) for seed in range(60)]
        for make in (diffuse_microbleed, diffuse_calcification)
    )
    for sources in (bleeds, calcium):
        softness = [source.softness for source in sources]
        assert min(softness) > 0 and np.ptp(softness) > 0.5
    assert min(source.chi_ppm for source in bleeds) < 0.1
    assert max(source.chi_ppm for source in bleeds) <= 0.5
    for source in calcium:
        found = factor_on_crop(source, (96, 96, 48), THIN)
        assert found is not None
        shift_rad = homodyne(found[1], float(np.mean(FILTER_MM)), SPACING_MM[:2])
        assert float(shift_rad.min()) < -0.4, "the dark caps above and below"


def test_a_ragged_calcification_is_a_ragged_microbleed_of_opposite_phase_and_no_lesion() -> None:
    image, tissue = plain_crop()
    weak = replace(THIN, rad_per_ppm=2.0, mask_power=0)  # nothing wraps, and no mask darkens
    bleed, lesions = implant(image, tissue, NONE, NO_MIMICS, weak, 1, np.random.default_rng(1), kind=RAGGED_MICROBLEED)
    calcium, none = implant(
        image, tissue, NONE, NO_MIMICS, weak, 1, np.random.default_rng(1), kind=RAGGED_CALCIFICATION
    )
    assert len(lesions.center_mm) == 1
    assert len(none.center_mm) == 0
    assert np.allclose(bleed[0], calcium[0], atol=1e-4)
    assert np.allclose(bleed[1], -calcium[1], atol=1e-4)
    r, a, s = np.rint(lesions.center_mm[0] / SPACING_MM).astype(int)
    reach = int(np.ceil(lesions.diameter_mm[0] / 2)) + 1
    assert bleed[1][r, a, s - reach] > 0
    assert bleed[1][r, a, s + reach] > 0


@pytest.mark.parametrize(
    "kind",
    [RAGGED_MICROBLEED, RAGGED_CALCIFICATION, DIFFUSE_MICROBLEED, DIFFUSE_CALCIFICATION],
    ids=["ragged", "ragged calcification", "diffuse", "diffuse calcification"],
)
def test_the_vendor_mask_darkens_sources(kind: Kind) -> None:
    image, tissue = plain_crop()
    bare, masked = (
        implant(image, tissue, NONE, NO_MIMICS, replace(THIN, mask_power=power), 1, np.random.default_rng(3), kind=kind)
        for power in (0, 4)
    )
    assert bare[0][0].sum() > masked[0][0].sum() + 1


@pytest.mark.parametrize("make", [ragged_microbleed, ragged_calcification, diffuse_microbleed])
def test_a_source_seldom_looks_wider_than_a_microbleed_may(make: Callable[..., Source]) -> None:
    wide = 0
    for seed in range(60):
        found = factor_on_crop(make(np.full(3, 24.0), np.random.default_rng(seed)), (96, 96, 48), THIN)
        assert found is not None
        wide += appearance(found[2], np.array(SPACING_MM), THIN.mask_power).diameter_mm > LARGEST_MM
    assert wide <= 3


def test_a_ragged_source_lies_where_asked() -> None:
    for seed in range(20):
        assert np.allclose(ragged_microbleed(np.full(3, 24.0), np.random.default_rng(seed)).center_mm, 24.0)


def test_nothing_is_put_where_a_vessel_or_air_would_hide_it():
    image, tissue = plain_crop()
    image[0] = -0.5
    _, lesions = implant(image, tissue, NONE, NO_MIMICS, THIN, 4, np.random.default_rng(0))
    assert len(lesions.center_mm) == 0


@pytest.mark.parametrize(("kind", "sign"), [(SPOT, 1), (CALCIFIED_SPOT, -1)], ids=["microbleed", "calcification"])
def test_a_painted_spot_is_labeled_as_it_looks_and_by_its_sign(kind: Kind, sign: int) -> None:
    image, tissue = plain_crop()
    at_poles = []
    for seed in range(12):
        changed, lesions = implant(image, tissue, NONE, NO_MIMICS, THIN, 1, np.random.default_rng(seed), kind=kind)
        assert len(lesions.center_mm) == (sign > 0)
        lost = 1 - (changed[0] + 1) / (image[0] + 1)
        assert lost.max() > 0.25
        if sign > 0:
            painted_mm = np.cbrt(6 * (lost > 0.2).sum() * np.prod(SPACING_MM) / np.pi)
            assert painted_mm == pytest.approx(lesions.diameter_mm[0], rel=0.15, abs=0.4)
        r, a, _ = np.unravel_index(lost.argmax(), SHAPE)
        at_poles.append(float((changed[1] - image[1])[r, a].sum()))
    assert sum(np.sign(at_poles) == sign) >= 8, "three in ten microbleeds have no phase"
    assert sum(np.sign(at_poles) == -sign) <= 2


def round_spots(radius_mm: float, shift_rad: float) -> Kind:
    """Spots that differ in their places alone."""

    def make(center_mm: np.ndarray, rng: np.random.Generator) -> Spot:
        axes_mm = np.full(3, radius_mm)
        return Spot(
            center_mm=center_mm, semi_axes_mm=axes_mm, edge=0.3, depth=0.7, shift_rad=shift_rad, inside=1.0
        )  # fmt: skip

    return Kind(make=make, is_lesion=True)


def test_the_phase_of_a_painted_spot_does_not_darken_it() -> None:
    image, tissue = plain_crop()
    silent, loud = (
        implant(image, tissue, NONE, NO_MIMICS, THIN, 1, np.random.default_rng(0), kind=round_spots(2.0, rad))[0]
        for rad in (0.0, 0.5)
    )
    assert np.abs(silent[0] - loud[0]).max() < 0.03, "but for a little dephasing"
    assert loud[1].max() == pytest.approx(0.5 / np.pi, rel=0.2)


def test_large_spots_keep_clear_of_each_other() -> None:
    image, tissue = plain_crop()
    large = round_spots(4.5, 0.0)
    together = 0
    for seed in range(12):
        _, lesions = implant(image, tissue, NONE, NO_MIMICS, THIN, 8, np.random.default_rng(seed), kind=large)
        distance_mm = np.linalg.norm(lesions.center_mm[:, None] - lesions.center_mm, axis=-1)
        assert (distance_mm + 99 * np.eye(len(distance_mm))).min() > 9.5
        together += len(lesions.center_mm) > 1
    assert together >= 2


def test_nothing_is_put_where_the_image_is_blank() -> None:
    image, tissue = plain_crop()
    image[:, :32] = 0  # as where bone or dropout was masked
    drawn = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        _, lesions = implant(image, tissue, NONE, NO_MIMICS, THIN, 4, rng, kind=round_spots(1.5, 0.0))
        drawn += len(lesions.center_mm)
        assert (np.rint(lesions.center_mm[:, 0] / SPACING_MM[0]) >= 32).all()
    assert drawn >= 8


def test_painted_vessels_are_no_lesions_and_keep_their_distance_from_them() -> None:
    image, tissue = plain_crop()
    there = Lesions(np.array([[16.0, 16.0, 16.0]]), np.array([3.0]), np.array([True]))
    around = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING_MM - there.center_mm[0], axis=-1)
    drawn = 0
    for seed in range(16):
        changed, lesions = implant(
            image, tissue, there, NO_MIMICS, THIN, 4, np.random.default_rng(seed), kind=VESSEL
        )  # fmt: skip
        assert len(lesions.center_mm) == 1
        reached = changed[0] < image[0] - 0.1
        drawn += bool(reached.any())
        assert not reached[around < 3.5].any()
    assert drawn >= 6
