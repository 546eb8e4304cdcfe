"""What cannot be searched is refused in one sentence, what may be wrong is told, and everything else passes in silence.

The phantom is an ellipsoid head with skull, ventricles, veins, a coil's shading and noise; its phase wraps, and its
air is noise, as from a scanner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.preflight import Preflight, _looks_like_phase, check
from CMBDetectorLib.volume import Acquisition, Volume, read_volume, write_volume

SPACING_MM = np.array([2.0, 2.0, 3.0])
SHAPE = (104, 128, 56)
MATRIX = np.diag([*SPACING_MM, 1.0])
MATRIX[:3, 3] = -SPACING_MM * (np.array(SHAPE) - 1) / 2
PLACES = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1) * SPACING_MM + MATRIX[:3, 3]

NO_PHASE = "There is no phase image"
ASSUMED = "it was read as"


def ellipsoid(center_mm: tuple[float, float, float], radii_mm: tuple[float, float, float]) -> np.ndarray:
    return np.sum(((PLACES - center_mm) / radii_mm) ** 2, axis=-1) < 1


HEAD = ellipsoid((0, 0, 0), (76, 96, 74))
SKULL = HEAD & ~ellipsoid((0, 0, 0), (71, 91, 69))
BRAIN = ellipsoid((0, 0, 0), (66, 86, 64))
VENTRICLES = ellipsoid((-10, 5, 15), (7, 28, 10)) | ellipsoid((10, 5, 15), (7, 28, 10))
TISSUE = BRAIN & ~VENTRICLES


@cache
def head(fluid: float = 0.75, noise: float = 0.04, seed: int = 0, gray_matter: float = 0.9) -> np.ndarray:
    """Magnitude or SWI, white matter 1; `fluid` is the brightness of ventricles and the fluid around the brain."""
    rng = np.random.default_rng(seed)
    image = np.where(HEAD, fluid, 0.0)
    image[SKULL] = 0.4
    image[TISSUE] = 1
    gray = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3) > 0
    image[TISSUE & gray] = gray_matter
    veins = ndimage.binary_dilation(ndimage.gaussian_filter(rng.standard_normal(SHAPE), (0, 0, 4)) > 0.8)
    image[TISSUE & veins] *= 0.5
    image *= 1 + 0.3 * np.linalg.norm(PLACES / 100, axis=-1)
    real, imaginary = (rng.normal(0, noise, SHAPE) for _ in range(2))
    return np.hypot(image + real, imaginary).astype(np.float32)


@cache
def phase_rad(filtered: bool = False, seed: int = 1) -> np.ndarray:
    """Phase in rad: wrapped background, or high-pass filtered, and in air nothing but noise."""
    rng = np.random.default_rng(seed)
    background = 0 if filtered else np.linalg.norm(PLACES - (0, 90, -60), axis=-1) ** 2 / 1500
    local = 0.5 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1)
    local += 2.5 * rng.choice([-1, 0, 1], SHAPE, p=(0.02, 0.96, 0.02))  # veins and borders, which stretch the range
    noise = 0.06 * (rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE))
    return np.angle(np.where(HEAD, np.exp(1j * (background + local)), 0) + noise).astype(np.float32)


SWI = Volume(head(), MATRIX, "swi.nii.gz")
PHASE = Volume(phase_rad(), MATRIX, "pha.nii.gz")


def refusal(swi: Volume, phase: Volume | None = None) -> str:
    """The sentence with which a pair is refused."""
    with pytest.raises(InputError) as refused:
        check(swi, phase)
    return str(refused.value)


def notices(swi: Volume, phase: Volume | None = None, *, force: bool = False) -> tuple[str, ...]:
    """What is told of a pair beyond what every pair is told."""
    told = check(swi, phase, force=force).notices
    return tuple(notice for notice in told if NO_PHASE not in notice and ASSUMED not in notice)


def rescaled(spacing_mm: tuple[float, float, float], volume: Volume = SWI) -> Volume:
    """The same voxels with another spacing written in the file."""
    return replace(volume, ijk_to_ras=np.diag([*spacing_mm, 1.0]))


def scanned(**said: object) -> Volume:
    return replace(SWI, acquisition=Acquisition(**said))  # type: ignore[arg-type]


def test_a_good_pair_passes_with_one_notice_on_its_range() -> None:
    result = check(SWI, PHASE)
    assert isinstance(result, Preflight)
    assert result.phase is not None
    np.testing.assert_array_equal(result.swi.array, SWI.array)
    np.testing.assert_allclose(result.phase.array, PHASE.array, atol=1e-5)
    assert len(result.notices) == 1
    assert "pha.nii.gz" in result.notices[0]


def test_a_missing_phase_is_told_and_nothing_else() -> None:
    result = check(SWI, None)
    assert result.phase is None
    assert [notice for notice in result.notices if NO_PHASE not in notice] == []
    assert "calcifications" in result.notices[0]


def test_what_reading_assumed_is_passed_on() -> None:
    result = check(replace(SWI, notices=("one",)), replace(PHASE, notices=("two",)))
    assert result.notices[:2] == ("one", "two")


# What counts as SWI


STORED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float": lambda image: image,
    "0 to 1": lambda image: (image - image.min()) / np.ptp(image),
    "12 bit": lambda image: np.round(image / image.max() * 4095),
    "8 bit, saturated": lambda image: np.round(np.clip(image / np.percentile(image, 97), 0, 1) * 255),
    "few levels": lambda image: np.round(image / image.max() * 40),
    "skull-stripped": lambda image: image * BRAIN,
    "skull-stripped 12 bit": lambda image: np.round(image * BRAIN / image.max() * 4095),
    "slightly negative by interpolation": lambda image: image - 0.02 * image.max(),
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("fluid", [0.65, 1.0, 1.5])
@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_every_kind_of_swi_passes_in_silence(stored: str, fluid: float, noise: float) -> None:
    assert notices(SWI.with_array(STORED[stored](head(fluid, noise)).astype(np.float32))) == ()


@pytest.mark.parametrize(("fluid", "gray_matter"), [(0.25, 0.6), (2.5, 1.7)], ids=["T1", "T2"])
@pytest.mark.parametrize("mask", [np.ones(SHAPE), BRAIN], ids=["whole", "stripped"])
def test_another_contrast_is_refused_unless_forced(fluid: float, gray_matter: float, mask: np.ndarray) -> None:
    image = SWI.with_array(head(fluid, gray_matter=gray_matter) * mask)
    assert refusal(image).startswith("swi.nii.gz has the contrast of T1 or T2")
    (told,) = notices(image, force=True)
    assert told.startswith("swi.nii.gz has the contrast of T1 or T2")


def test_phase_on_the_same_grid_says_that_the_scan_is_a_gradient_echo_but_not_a_t1() -> None:
    image = SWI.with_array(head(fluid=0.25, gray_matter=0.6))
    assert notices(image, PHASE) == ()
    elsewhere = replace(PHASE, ijk_to_ras=PHASE.ijk_to_ras + np.outer([1.0, 0, 0, 0], [0, 0, 0, 1]))
    assert refusal(image, elsewhere).startswith("swi.nii.gz has the contrast of T1 or T2: its brightness")
    pattern = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(SHAPE), 4)
    t1 = SWI.array * np.where(pattern > np.percentile(pattern, 70), 0.5, 1)
    sentence = "swi.nii.gz has the contrast of T1 or T2: a fifth of the brain"
    assert refusal(SWI.with_array(t1.astype(np.float32)), PHASE).startswith(sentence)


@pytest.mark.parametrize("radii", [(15, 20, 15), (25, 30, 28)], ids=["19 ml", "88 ml"])
@pytest.mark.parametrize("phase", [None, PHASE], ids=["alone", "with phase"])
def test_a_hematoma_is_not_refused(radii: tuple[float, float, float], phase: Volume | None) -> None:
    bled = np.where(ellipsoid((-30, 10, 20), radii), 0.1, SWI.array).astype(np.float32)
    assert check(SWI.with_array(bled), phase).swi.array is bled


def test_a_segmentation_is_refused() -> None:
    labels = SWI.with_array((np.where(BRAIN, 2, 0) + VENTRICLES + SKULL).astype(np.float32))
    assert refusal(labels).startswith("swi.nii.gz has only 4 different values: it looks like a segmentation")


@pytest.mark.parametrize("bone", [600, 1200])
def test_ct_is_refused(bone: float) -> None:
    ct = np.where(BRAIN, 35.0, np.where(SKULL, bone, np.where(HEAD, 10, -1000)))
    ct += np.random.default_rng(0).normal(0, 8, SHAPE)
    assert refusal(SWI.with_array(ct.astype(np.float32)), PHASE).startswith("swi.nii.gz looks like CT")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"modality": "CT"}, "swi.nii.gz is a CT image"),
        ({"modality": "MR", "sequence": "GR\\IR", "series": "MPRAGE"}, "is an inversion recovery image (MPRAGE)"),
        ({"sequence": "SE", "series": "t2_tse"}, "is a spin echo image (t2_tse)"),
        ({"sequence": "GR", "echo_time_ms": 2.9}, "has an echo time of 2.9 ms"),
        ({"series": "mIP_Images(SW)"}, "is a minimum intensity projection"),
        ({"image_type": "DERIVED\\PRIMARY\\MNIP"}, "is a minimum intensity projection"),
    ],
)
def test_what_the_scanner_calls_something_else_is_refused(said: dict[str, object], sentence: str) -> None:
    assert sentence in refusal(scanned(**said))


def test_what_the_scanner_calls_swi_passes() -> None:
    said = {"modality": "MR", "sequence": "GR", "series": "SWI_Images", "image_type": "ORIGINAL\\PRIMARY\\M\\SWI"}
    assert notices(scanned(**said, echo_time_ms=20.0, slice_thickness_mm=3.0)) == ()


# SWI and phase


RANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "-pi to pi": (lambda rad: rad, 0.01),
    "0 to 2 pi": (lambda rad: rad + np.float32(np.pi), 0.01),
    "0 to 4095": (lambda rad: np.floor((rad + np.pi) / (2 * np.pi) * 4095.999), 0.01),
    "-4096 to 4095": (lambda rad: np.floor(rad / np.pi * 4095.999), 0.01),
    "-2048 to 2047": (lambda rad: np.floor(rad / np.pi * 2047.999), 0.01),
    "degrees": (lambda rad: np.degrees(rad), 0.01),
}


@pytest.mark.parametrize("stored", RANGES)
@pytest.mark.parametrize("filtered", [False, True], ids=["raw", "filtered"])
@pytest.mark.parametrize("mask", [None, BRAIN], ids=["whole", "masked"])
def test_phase_in_every_known_range_is_read_and_swapping_it_is_noticed(
    stored: str, filtered: bool, mask: np.ndarray | None
) -> None:
    store, tolerance = RANGES[stored]
    rad = phase_rad(filtered)
    values = store(rad) if mask is None else np.where(mask, store(rad), 0)
    phase = PHASE.with_array(values.astype(np.float32))
    assert "swapped" in refusal(phase, SWI)
    assert "pha.nii.gz looks like phase" in refusal(phase, None)
    if filtered and mask is not None:
        return  # no voxel near the ends of the range is left to tell the range by
    read = check(SWI, phase).phase
    assert read is not None
    apart = np.angle(np.exp(1j * (read.array - rad)))
    assert np.abs(apart[BRAIN]).max() < tolerance


def test_masked_phase_that_leans_to_one_side_is_read() -> None:
    random = np.random.default_rng(0)
    rad = random.normal(0.42, 0.3, SHAPE)  # 6 % of it below the background's 0
    rad = np.where(random.random(SHAPE) < 0.01, random.uniform(-np.pi, np.pi, SHAPE), rad)
    phase = PHASE.with_array(np.where(BRAIN, np.round(rad / np.pi * 4095), 0).astype(np.float32))
    assert check(SWI, phase).phase is not None


def test_phase_whose_noise_was_interpolated_is_read() -> None:
    """With twice as many voxels in plane as were measured, noise goes up and down in small steps."""
    random = np.random.default_rng(0)
    real, imaginary = (ndimage.gaussian_filter(random.normal(size=SHAPE), (2, 2, 0)) for _ in range(2))
    air = 0.9 * np.arctan2(imaginary, real)  # a filter leaves few wraps in it
    rad = np.where(random.random(SHAPE) < 0.02, random.uniform(-np.pi, np.pi, SHAPE), random.normal(0, 0.4, SHAPE))
    phase = PHASE.with_array(RANGES["0 to 4095"][0](np.where(HEAD, rad, air)).astype(np.float32))
    assert check(SWI, phase).phase is not None
    assert "swapped" in refusal(phase, SWI)


@pytest.mark.parametrize("cut_mm", [0, 8, 20])
def test_swi_cut_to_the_head_is_not_taken_for_phase(cut_mm: float) -> None:
    inside = np.argwhere(HEAD)
    first, last = inside.min(axis=0), inside.max(axis=0) + 1
    margin = np.round(cut_mm / SPACING_MM).astype(int)
    box = tuple(slice(a + m, b - m) for a, b, m in zip(first, last, margin, strict=True))
    for stored in STORED.values():
        scan = SWI.with_array(stored(head(seed=5)).astype(np.float32))
        assert not _looks_like_phase(scan.array[box])


def test_phase_whose_air_is_smooth_in_the_middle_of_the_range_is_read() -> None:
    random = np.random.default_rng(0)
    chance = random.random(SHAPE)
    rad = np.where(chance < 0.3, np.pi, np.where(chance > 0.95, -np.pi, random.normal(0.1, 0.8, SHAPE)))
    # Air that a filter left smooth, of a hundred levels; in the upper slices it lies at another one.
    air = random.normal(0, 0.02, SHAPE) + np.where(np.arange(SHAPE[2]) < 0.55 * SHAPE[2], 0, 1.0)
    phase = PHASE.with_array(RANGES["0 to 4095"][0](np.where(BRAIN, rad, air)).astype(np.float32))
    assert check(SWI, phase).phase is not None
    assert "swapped" in refusal(phase, SWI)


def test_phase_that_leans_to_one_side_of_its_smooth_air_is_read() -> None:
    random = np.random.default_rng(0)
    rad = np.where(random.random(SHAPE) < 0.01, random.uniform(-np.pi, np.pi, SHAPE), random.normal(0.2, 0.1, SHAPE))
    rad = np.where(HEAD, rad, random.normal(0, 0.005, SHAPE))
    phase = PHASE.with_array(RANGES["0 to 4095"][0](rad).astype(np.float32))
    assert check(SWI, phase).phase is not None


@pytest.mark.parametrize("noise", [0.005, 0.01, 0.015, 0.03])
def test_inverted_magnitude_is_not_taken_for_phase(noise: float) -> None:
    air = np.random.default_rng(0).normal(0, noise, SHAPE)
    inverted = 1000 * (1 - np.where(BRAIN, head(seed=5) / head(seed=5).max(), air))
    assert refusal(SWI, PHASE.with_array(inverted.astype(np.float32))).startswith("pha.nii.gz looks like SWI")


def test_swapped_images_are_named_both() -> None:
    sentence = refusal(replace(PHASE, source="/data/a.nii"), replace(SWI, source="/data/b.nii"))
    assert sentence == "a.nii looks like phase and b.nii like SWI: they are swapped. Exchange the two."


@pytest.mark.parametrize("stored", STORED)
def test_swi_given_as_phase_too_is_refused(stored: str) -> None:
    second = PHASE.with_array(STORED[stored](head(seed=5)).astype(np.float32))
    assert refusal(SWI, second).startswith("pha.nii.gz looks like SWI or magnitude, not like phase")


def test_phase_given_twice_is_refused() -> None:
    assert "looks like phase" in refusal(replace(PHASE, source="swi.nii.gz"), PHASE)


def test_an_image_normalized_around_zero_is_refused() -> None:
    inside = SWI.array[BRAIN]
    normal = np.where(BRAIN, (SWI.array - inside.mean()) / inside.std(), 0).astype(np.float32)
    assert "normalized around zero" in refusal(SWI.with_array(normal))


def test_phase_of_an_unknown_range_is_refused() -> None:
    assert "pha.nii.gz" in refusal(SWI, PHASE.with_array(PHASE.array * np.float32(5.5)))


# Values


def test_a_constant_image_is_refused() -> None:
    assert refusal(SWI.with_array(np.full(SHAPE, 7, np.float32))) == (
        "swi.nii.gz shows nothing: every voxel is 7. Choose another image."
    )


def test_a_constant_phase_is_refused() -> None:
    assert refusal(SWI, PHASE.with_array(np.zeros(SHAPE, np.float32))).startswith("pha.nii.gz shows nothing")


def test_an_image_of_nothing_but_nan_is_refused() -> None:
    assert "no voxel is a number" in refusal(SWI.with_array(np.full(SHAPE, np.nan, np.float32)))


def test_nan_around_the_brain_becomes_background() -> None:
    array = np.where(BRAIN, SWI.array, np.nan).astype(np.float32)
    result = check(SWI.with_array(array), None)
    np.testing.assert_array_equal(result.swi.array, np.where(BRAIN, SWI.array, 0))
    assert f"swi.nii.gz has {np.sum(~BRAIN)} voxels that are not numbers" in result.notices[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("as_read", [False, True])
def test_a_few_voxels_that_are_no_numbers_never_become_dark_dots(value: float, as_read: bool) -> None:
    array = SWI.array.copy()
    array[52, 64, 20:22] = value
    if as_read:
        array = np.asfortranarray(array)  # the order in which files are read
    result = check(SWI.with_array(array), None)
    assert np.isfinite(result.swi.array).all()
    assert result.swi.array[52, 64, 20:22].min() > 0.3
    assert "2 of them inside the head" in result.notices[0]


def test_many_voxels_inside_that_are_no_numbers_are_refused() -> None:
    array = SWI.array.copy()
    array[ellipsoid((30, 0, 0), (15, 15, 15))] = np.nan
    assert "voxels inside the head that are not numbers" in refusal(SWI.with_array(array))


def test_nan_in_a_file_is_noticed(tmp_path: Path) -> None:
    array = SWI.array.copy()
    array[ellipsoid((30, 0, 0), (15, 15, 15))] = np.nan
    write_volume(SWI.with_array(array), tmp_path / "holes.nii.gz")
    assert refusal(read_volume(tmp_path / "holes.nii.gz")).startswith("holes.nii.gz has")


# Size and spacing


@pytest.mark.parametrize("shape", [(104, 128), (104, 128, 1), (104, 128, 4), (104, 128, 56, 2)])
def test_what_is_not_one_3d_image_is_refused(shape: tuple[int, ...]) -> None:
    flat = replace(SWI, array=np.ones(shape, np.float32))
    assert refusal(flat) == f"swi.nii.gz has {' x '.join(map(str, shape))} voxels. Give one whole 3D image."


@pytest.mark.parametrize(
    "spacing_mm",
    [(0.0, 0.0, 0.0), (0.0, 2.0, 3.0), (2000.0, 2000.0, 3000.0), (0.002, 0.002, 0.003), (2.0, 2.0, np.nan)],
    ids=["zero", "one zero", "meters", "micrometers", "nan"],
)
@pytest.mark.filterwarnings("error")
def test_impossible_spacing_is_refused(spacing_mm: tuple[float, float, float]) -> None:
    assert "which no head scan has" in refusal(rescaled(spacing_mm))


def test_impossible_spacing_of_the_phase_is_refused() -> None:
    assert refusal(SWI, rescaled((0.0, 2.0, 3.0), PHASE)).startswith("pha.nii.gz says its voxels are 0 x 2 x 3 mm")


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (4.0, 4.0, 3.0), (0.5, 0.5, 3.0)])
@pytest.mark.parametrize("phase", [None, PHASE], ids=["alone", "with phase"])
def test_a_head_of_impossible_size_is_refused(spacing_mm: tuple[float, float, float], phase: Volume | None) -> None:
    assert "The head in swi.nii.gz" in refusal(rescaled(spacing_mm), phase)


def test_a_crop_of_a_head_is_refused() -> None:
    crop = Volume(SWI.array[30:70, 40:90], MATRIX, "crop.nii.gz")
    assert refusal(crop).startswith("The head in crop.nii.gz is 80 mm wide and 100 mm long")


def test_a_slab_is_refused_unless_forced_and_a_thin_one_always() -> None:
    slab = Volume(SWI.array[:, :, 18:40], MATRIX, "slab.nii.gz")
    assert refusal(slab).startswith("slab.nii.gz covers only 66 mm of the head")
    (told,) = notices(slab, force=True)
    assert told.startswith("slab.nii.gz covers only 66 mm of the head")
    thin = Volume(SWI.array[:, :, 24:34], MATRIX, "thin.nii.gz")
    assert refusal(thin).startswith("thin.nii.gz covers only 30 mm")


@pytest.mark.parametrize("step", [2, 4])
def test_thick_slices_are_refused_unless_forced_and_very_thick_ones_always(step: int) -> None:
    thick = Volume(SWI.array[:, :, ::step], MATRIX @ np.diag([1, 1, step, 1]), "thick.nii.gz")
    if step == 2:
        said = "thick.nii.gz has slices of 6 mm; over 5 mm, small microbleeds are missed."
        assert refusal(thick).startswith(said)
        assert notices(thick, force=True) == (said,)
    else:
        assert refusal(thick).startswith("thick.nii.gz has slices of 12 mm, too thick")


def test_axial_slices_finer_than_their_voxels_are_wide_pass_in_silence() -> None:
    fine = Volume(np.repeat(SWI.array, 3, axis=2), MATRIX @ np.diag([1, 1, 1 / 3, 1]), "swi.nii.gz")  # 2 x 2 x 1 mm
    assert notices(fine) == ()


@pytest.mark.parametrize(("axis", "kind"), [(0, "sagittal"), (1, "coronal")])
def test_slices_that_are_not_axial_are_refused_unless_forced_however_they_are_stored(axis: int, kind: str) -> None:
    thinned = np.repeat(SWI.array, 2, axis=2)  # 2 x 2 x 1.5 mm; every second one along an axis: slices of 4 mm
    thinned = thinned[:: 2 if axis == 0 else 1, :: 2 if axis == 1 else 1]
    step = np.array([2 if axis == 0 else 1, 2 if axis == 1 else 1, 0.5, 1])
    volume = Volume(thinned, MATRIX @ np.diag(step), "swi.nii.gz")
    stored = Volume(
        np.moveaxis(thinned, axis, 2), volume.ijk_to_ras[:, [*np.delete(range(3), axis), axis, 3]], "swi.nii.gz"
    )
    for scan in (volume, stored):
        assert refusal(scan).startswith(f"swi.nii.gz has {kind} slices")
        assert any(told.startswith(f"swi.nii.gz has {kind} slices") for told in notices(scan, force=True))


def test_thick_slices_that_overlap_are_doubted() -> None:
    assert refusal(scanned(slice_thickness_mm=8.0)).startswith("swi.nii.gz has slices of 8 mm")


# Grids


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
def test_the_same_grid_stored_in_another_order_is_no_other_grid(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    matrix = MATRIX.copy()
    for axis in flips:
        matrix[:3, 3] += matrix[:3, axis] * (SHAPE[axis] - 1)
        matrix[:3, axis] *= -1
    turned = matrix.copy()
    turned[:, :3] = matrix[:, list(axes)]
    stored = Volume(np.transpose(np.flip(PHASE.array, flips), axes), turned, "pha.nii.gz")
    result = check(SWI, stored)
    assert result.phase is not None
    np.testing.assert_allclose(result.phase.array, PHASE.array, atol=1e-5)
    np.testing.assert_array_equal(result.phase.ijk_to_ras, SWI.ijk_to_ras)
    assert len(result.notices) == 1


def smooth_phase(matrix: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    """Wrapped phase of a known field on any grid, so that what resampling should give can be computed."""
    places = Volume(np.zeros(shape), matrix).ras_of(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
    field = places @ (0.06, 0.04, 0.05)
    inside = np.sum((places / (76, 96, 74)) ** 2, axis=-1) < 1
    noise = np.random.default_rng(0).uniform(-np.pi, np.pi, shape)
    return Volume(np.angle(np.exp(1j * np.where(inside, field, noise))).astype(np.float32), matrix, "pha.nii.gz")


def test_phase_on_another_grid_is_resampled_without_inventing_values_at_wraps() -> None:
    matrix = np.diag([1.6, 2.2, 2.5, 1])
    matrix[:3, 3] = MATRIX[:3, 3] + (0.3, -0.4, 0.7)
    result = check(SWI, smooth_phase(matrix, (130, 116, 68)))
    assert result.phase is not None
    expected = smooth_phase(MATRIX, SHAPE).array
    apart = np.angle(np.exp(1j * (result.phase.array - expected)))
    inside = ndimage.binary_erosion(BRAIN, iterations=2)
    assert (np.abs(np.diff(expected, axis=0)) > 6)[inside[1:]].sum() > 1000  # there are wraps to get wrong
    assert np.abs(apart[inside]).max() < 0.02
    assert result.phase.array.shape == SHAPE
    assert any("pha.nii.gz lies on another grid than swi.nii.gz and was resampled" in said for said in result.notices)


def test_phase_from_elsewhere_is_refused() -> None:
    matrix = MATRIX.copy()
    matrix[2, 3] += 60
    sentence = refusal(SWI, replace(PHASE, ijk_to_ras=matrix))
    assert sentence.startswith("pha.nii.gz covers 6")
    assert sentence.endswith("% of swi.nii.gz. Give the phase image of the same scan.")


def test_phase_that_covers_nine_tenths_is_enough() -> None:
    matrix = MATRIX.copy()
    matrix[2, 3] += 12
    shifted = check(SWI, replace(PHASE, ijk_to_ras=matrix)).phase
    assert shifted is not None
    assert np.all(shifted.array[:, :, :4] == 0)  # beyond its edge there is no phase
    np.testing.assert_allclose(shifted.array[:, :, 4:], PHASE.array[:, :, :-4], atol=1e-4)


def test_another_frame_of_reference_is_refused_where_grids_differ() -> None:
    phase = smooth_phase(MATRIX @ np.diag([1.1, 1, 1, 1]), (96, 128, 56))
    swi = scanned(frame_of_reference="1.2.3")
    assert check(swi, replace(phase, acquisition=Acquisition(frame_of_reference="1.2.3"))).phase is not None
    sentence = refusal(swi, replace(phase, acquisition=Acquisition(frame_of_reference="9.9.9")))
    assert "in another frame of reference" in sentence
