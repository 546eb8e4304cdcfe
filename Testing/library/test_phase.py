from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.phase import high_pass, measure_polarity, prepare
from CMBDetectorLib.phase_range import to_radians
from CMBDetectorLib.volume import Volume

RAD_PER_PPM = 16.05  # 3 T, 20 ms


def full_range(low: float, high: float, whole: bool = True) -> Volume:
    """An image whose values fill a range evenly."""
    values = np.linspace(low, high, 8 * 8 * 8).reshape(8, 8, 8)
    return Volume(np.rint(values).astype(np.int32) if whole else values, np.eye(4), "/data/anna/pha.nii.gz")


@pytest.mark.parametrize(
    ("low", "high", "whole", "tolerance_rad"),
    [
        (-np.pi, np.pi, False, 1e-5),
        (-3.05, 3.05, False, 0.1),  # wrapped phase need not touch the ends
        (0, 2 * np.pi, False, 1e-5),
        (-180, 180, False, 1e-5),
        (-180, 180, True, 0.01),
        (0, 360, True, 0.01),
        (0, 4095, True, 0.01),
        (0, 4094, False, 0.01),  # integers that were interpolated
        (3, 4090, True, 0.01),
        (-4096, 4095, True, 0.01),
        (-2048, 2047, True, 0.01),
        (-2047.5, 2046.5, False, 0.01),
        (-32768, 32767, True, 0.01),
        (0, 255, True, 0.05),
        (-3142, 3141, True, 0.01),
        (-1, 1, False, 1e-5),
        (0, 1, False, 1e-5),
        (-0.00367, 0.00367, False, 1e-5),
    ],
)
def test_every_range_that_scanners_use_becomes_radians(
    low: float, high: float, whole: bool, tolerance_rad: float
) -> None:
    radians, assumed = to_radians(full_range(low, high, whole))
    turn = np.linspace(-np.pi, np.pi, 512).reshape(8, 8, 8)
    inner = np.abs(turn) < 0.99 * np.pi  # the ends may round to the other side of the circle
    assert np.abs(radians.array - turn)[inner].max() < tolerance_rad
    assert radians.array.dtype == np.float32
    assert assumed.startswith("The phase of pha.nii.gz runs") and f"{high:.6g}" in assumed


def test_filtered_phase_in_radians_is_left_as_it_is() -> None:
    narrow = full_range(-1.3, 1.7, whole=False)
    assert np.allclose(to_radians(narrow)[0].array, narrow.array, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(7.0, 7.0), (-35.2, 60.1), (0.0, 2.5)])
def test_what_cannot_be_phase_is_refused_with_its_name_and_range(low: float, high: float) -> None:
    with pytest.raises(InputError, match=rf"/data/anna/pha\.nii\.gz runs from {low:.6g} to {high:.6g}"):
        to_radians(full_range(low, high, whole=False))


def test_missing_values_become_zero() -> None:
    phase = full_range(-np.pi, np.pi, whole=False)
    phase.array[0, 0, 0] = np.nan
    assert to_radians(phase)[0].array[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("wavelength_mm", "passed"), [(4.0, 1.0), (8.0, 1.0), (16.0, 0.5), (32.0, 0.1464), (64.0, 0.038)]
)
def test_a_weak_wave_passes_the_filter_as_its_hann_window_says(wavelength_mm: float, passed: float) -> None:
    # For a small wave of amplitude e, low-pass H: angle(exp(i e cos) / (1 + i H e cos)) = (1 - H) e cos.
    x = np.arange(128) * 0.5
    wave = np.broadcast_to(0.01 * np.cos(2 * np.pi * x / wavelength_mm)[:, None, None], (128, 96, 3))
    filtered = high_pass(wave, np.ones(wave.shape), np.diag([0.5, 0.5, 2.0, 1.0]))
    assert np.allclose(filtered, passed * wave, atol=2e-5)


def test_the_filter_acts_in_the_plane_of_the_slices_however_they_are_stored() -> None:
    rng = np.random.default_rng(0)
    phase, weight = rng.normal(0, 1, (32, 40, 6)), rng.uniform(0.5, 1, (32, 40, 6))
    matrix = np.diag([0.5, 0.5, 3.0, 1.0])
    expected = high_pass(phase, weight, matrix)
    turned = high_pass(np.moveaxis(phase, 2, 0), np.moveaxis(weight, 2, 0), matrix[:, [2, 0, 1, 3]])
    assert np.allclose(np.moveaxis(turned, 0, 2), expected, atol=1e-5)
    assert np.allclose(high_pass(phase[:, :, 2:3], weight[:, :, 2:3], matrix), expected[:, :, 2:3], atol=1e-6)


@lru_cache
def veins(seed: int = 0, direction: tuple[float, float, float] | None = None) -> tuple[np.ndarray, np.ndarray, Volume]:
    """Magnitude and unwrapped canonical phase, rad, of an ellipsoid of tissue with 150 veins of 0.4 ppm; its mask.

    2 mm slices averaged from 1 mm; the field of the veins comes from the dipole kernel, B0 along the third axis.
    """
    rng = np.random.default_rng(seed)
    shape = (96, 96, 80)
    ras = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij"), axis=-1)
    brain = ((ras / [46, 46, 38]) ** 2).sum(axis=-1) < 1
    chi_ppm = np.zeros(shape)
    for _ in range(150):
        way = np.array(direction) if direction else rng.normal(size=3)
        points = rng.uniform(-30, 30, 3) + np.linspace(-9, 9, 40)[:, None] * way / np.linalg.norm(way)
        chi_ppm[tuple(np.rint(points + np.array(shape) / 2).astype(int).clip(0, np.array(shape) - 1).T)] = 0.4
    chi_ppm *= brain
    k = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    squared = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    kernel = 1 / 3 - k[2] ** 2 / np.where(squared == 0, np.inf, squared)
    kernel[0, 0, 0] = 0
    phase = RAD_PER_PPM * np.fft.ifftn(np.fft.fftn(chi_ppm) * kernel).real
    signal = np.where(brain, 1 - 0.7 * (chi_ppm > 0), 0.03) * np.exp(1j * phase)
    signal = signal.reshape(*shape[:2], -1, 2).mean(axis=-1)
    signal = signal + 0.03 * (rng.normal(size=signal.shape) + 1j * rng.normal(size=signal.shape))
    return np.abs(signal), np.angle(signal), Volume(brain[:, :, ::2], np.diag([1.0, 1.0, 2.0, 1.0]))


def swi_of(magnitude: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """What a vendor makes: the magnitude times the fourth power of a mask that falls where phase is paramagnetic."""
    return magnitude * np.where(phase > 0, 1 - phase / np.pi, 1) ** 4


@pytest.mark.parametrize("direction", [None, (0, 0, 1), (1, 0, 0), (0, 1, 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_polarity_is_found_from_veins_of_any_direction(direction: tuple | None, sign: int) -> None:
    magnitude, phase, brain = veins(direction=direction)
    swi = brain.with_array(swi_of(magnitude, phase))
    found, confidence = measure_polarity(sign * phase, swi, brain)
    assert found == ("bright" if sign > 0 else "dark")
    assert confidence > 0.8


@pytest.mark.parametrize("sign", [1, -1])
def test_the_polarity_is_found_though_dark_spots_near_the_surface_have_the_opposite_phase(sign: int) -> None:
    magnitude, phase, brain = veins()
    inner = ndimage.minimum_filter(brain.array, size=(23, 23, 11), mode="constant")  # 11 mm and more from the surface
    spots = brain.array & ~inner & (np.random.default_rng(3).random(phase.shape) < 0.1)
    swi = brain.with_array(np.where(spots, 0.2, 1) * swi_of(magnitude, phase))
    found, confidence = measure_polarity(sign * np.where(spots, -3, phase), swi, brain)
    assert found == ("bright" if sign > 0 else "dark") and confidence > 0.8


@pytest.mark.parametrize("sign", [1, -1])
def test_the_polarity_is_found_though_faint_dark_texture_has_the_opposite_phase(sign: int) -> None:
    magnitude, phase, brain = veins()
    texture = np.random.default_rng(3).random(phase.shape) < 0.1
    swi = brain.with_array(np.where(texture, 0.8, 1) * swi_of(magnitude, phase))
    found, confidence = measure_polarity(sign * np.where(texture, -2.0, phase), swi, brain)
    assert found == ("bright" if sign > 0 else "dark") and confidence > 0.8


@pytest.mark.parametrize("sign", [1, -1])
def test_the_polarity_is_found_even_when_the_swi_is_a_plain_magnitude(sign: int) -> None:
    magnitude, phase, brain = veins(seed=1)
    assert measure_polarity(sign * phase, brain.with_array(magnitude), brain)[0] == ("bright" if sign > 0 else "dark")


def test_phase_that_does_not_belong_to_the_swi_draws_a_notice() -> None:
    magnitude, phase, brain = veins()
    swi = brain.with_array(swi_of(magnitude, phase).astype(np.float32))
    assert prepare(brain.with_array(phase), swi, brain).notice == ""
    assert "set the polarity by hand" in prepare(brain.with_array(phase[::-1, ::-1]), swi, brain).notice


def test_a_sign_that_cannot_be_told_is_said_to_be_unknown_unless_it_is_given() -> None:
    magnitude, phase, brain = veins()
    swi = brain.with_array(swi_of(magnitude, phase).astype(np.float32))
    noise = brain.with_array(np.random.default_rng(4).uniform(-3, 3, phase.shape).astype(np.float32))
    unknown = prepare(noise, swi, brain)
    assert not unknown.sign_is_known
    assert "the phase was not used" in unknown.notice
    assert prepare(noise, swi, brain, "dark").sign_is_known
    thin = brain.with_array(brain.array & (np.abs(np.arange(brain.array.shape[2]) - 20) < 3))
    assert "too little of the inside of the brain" in prepare(noise, swi, thin).notice
    assert prepare(brain.with_array(phase), swi, brain).sign_is_known


def test_a_sign_on_which_three_fifths_of_the_brain_agree_is_not_known() -> None:
    magnitude, phase, brain = veins()
    swi = brain.with_array(swi_of(magnitude, phase).astype(np.float32))
    cubes = np.where(np.random.default_rng(1).random((8, 8, 8)) < 0.42, -1, 1)  # as many have the opposite sign
    mixed = brain.with_array((phase * np.kron(cubes, np.ones((12, 12, 5)))).astype(np.float32))
    assert 0.6 < measure_polarity(high_pass(mixed.array, swi.array, swi.ijk_to_ras), swi, brain)[1] < 0.65
    assert not prepare(mixed, swi, brain).sign_is_known


def test_wrapped_phase_of_either_sign_is_prepared_into_the_same_canonical_phase() -> None:
    magnitude, phase, brain = veins()
    swi = brain.with_array(swi_of(magnitude, phase).astype(np.float32))
    x, y, z = (np.arange(n) for n in phase.shape)
    shading = 0.15 * x[:, None, None] - 0.1 * y[None, :, None] + 0.3 * z[None, None, :]
    wrapped = np.angle(np.exp(1j * (phase + shading)))
    bright = prepare(brain.with_array(wrapped), swi, brain)
    dark = prepare(brain.with_array(-wrapped), swi, brain)
    assert (bright.polarity, dark.polarity) == ("bright", "dark")
    assert np.allclose(bright.volume.array[brain.array], dark.volume.array[brain.array], atol=1e-3)
    unshaded = high_pass(phase, swi.array, brain.ijk_to_ras)
    inner = np.roll(brain.array, 6, 0) & np.roll(brain.array, -6, 0) & np.roll(brain.array, 6, 1)
    assert np.corrcoef(bright.volume.array[inner], unshaded[inner])[0, 1] > 0.97


def test_a_second_filter_changes_little() -> None:
    magnitude, phase, brain = veins()
    once = high_pass(phase + 0.1 * np.arange(phase.shape[0])[:, None, None], magnitude, brain.ijk_to_ras)
    twice = high_pass(once, magnitude, brain.ijk_to_ras)
    assert np.corrcoef(once[brain.array], twice[brain.array])[0, 1] > 0.97


def test_a_polarity_set_by_hand_is_used_unasked() -> None:
    magnitude, phase, brain = veins()
    swi = brain.with_array(swi_of(magnitude, phase).astype(np.float32))
    by_hand = prepare(brain.with_array(phase), swi, brain, "dark")
    assert by_hand.polarity == "dark" and by_hand.notice == ""
    assert np.array_equal(by_hand.volume.array, -prepare(brain.with_array(phase), swi, brain, "bright").volume.array)
