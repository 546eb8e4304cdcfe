from __future__ import annotations

import numpy as np
import pytest

from CMBDetectorLib.candidate import PhaseEvidence
from CMBDetectorLib.evidence import apparent_volume_mm3, dipole_agreement, phase_evidence
from CMBDetectorLib.phase import high_pass
from CMBDetectorLib.volume import Volume

RAD_PER_PPM = 16.05  # 3 T, 20 ms
SIGN = {PhaseEvidence.PARAMAGNETIC: 1, PhaseEvidence.DIAMAGNETIC: -1}


def sphere(
    radius_mm: float,
    chi_ppm: float,
    center_ras_mm: tuple[float, float, float] = (0.1, -0.2, 0.3),
    slice_mm: float = 2.0,
    tilt_deg: float = 0.0,
    noise: float = 0.04,
) -> tuple[Volume, Volume]:
    """SWI and prepared phase of a dark sphere, from its closed-form field.

    Field outside: chi/3 (a/r)^3 (3 cos^2 - 1), inside 0; complex signal averaged over voxels of 0.5 x 0.5 x slice mm
    from a grid of 0.25 x 0.25 x 0.25 mm. The slices are tilted about the R axis; B0 is S.
    """
    shape, fine = (40, 40, int(24 / slice_mm)), int(slice_mm / 0.25)
    angle = np.deg2rad(tilt_deg)
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix = matrix @ np.diag([0.5, 0.5, slice_mm, 1.0])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    parts = (2, 2, fine)
    axes = [(np.arange(n * m) + 0.5) / m - 0.5 for n, m in zip(shape, parts, strict=True)]
    ras = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ matrix[:3, :3].T + matrix[:3, 3] - center_ras_mm
    distance = np.linalg.norm(ras, axis=-1)
    outside = distance > radius_mm
    safe = np.maximum(distance, radius_mm)
    field_ppm = outside * chi_ppm / 3 * (radius_mm / safe) ** 3 * (3 * (ras[..., 2] / safe) ** 2 - 1)
    signal = np.where(outside, 1.0, 0.1) * np.exp(1j * RAD_PER_PPM * field_ppm)
    signal = signal.reshape(shape[0], 2, shape[1], 2, shape[2], fine).mean(axis=(1, 3, 5))
    rng = np.random.default_rng(0)
    signal = signal + noise * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    phase = high_pass(np.angle(signal), np.abs(signal), matrix)
    swi = np.abs(signal) * np.where(phase > 0, 1 - phase / np.pi, 1) ** 4
    return Volume(swi, matrix), Volume(phase, matrix)


def apparent_mm(swi: Volume) -> float:
    """Diameter of the ball that has the volume of the voxels which lost a fifth of their signal."""
    return float(np.cbrt(6 / np.pi * (swi.array < 0.8).sum() * np.prod(swi.spacing_mm)))


@pytest.mark.parametrize("slice_mm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize(("radius_mm", "chi_ppm"), [(0.6, 1), (0.8, 1), (1, 1), (1.5, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("expected", [PhaseEvidence.PARAMAGNETIC, PhaseEvidence.DIAMAGNETIC])
def test_the_sign_of_a_sphere_is_read_from_its_phase(
    expected: PhaseEvidence, radius_mm: float, chi_ppm: float, slice_mm: float
) -> None:
    swi, phase = sphere(radius_mm, SIGN[expected] * chi_ppm, slice_mm=slice_mm)
    assert phase_evidence((0.1, -0.2, 0.3), apparent_mm(swi), phase) == expected


@pytest.mark.parametrize("expected", [PhaseEvidence.PARAMAGNETIC, PhaseEvidence.DIAMAGNETIC])
def test_a_center_off_by_half_a_voxel_and_a_wrong_size_do_not_turn_the_sign(expected: PhaseEvidence) -> None:
    _, phase = sphere(1.2, 1.2 * SIGN[expected])
    for center in ((0.6, -0.2, 0.3), (0.1, 0.3, 0.3), (0.1, -0.2, 1.1)):
        for diameter_mm in (3.0, 5.0):
            sigmas, _ = dipole_agreement(center, diameter_mm, phase)
            assert np.sign(sigmas) == SIGN[expected]


@pytest.mark.parametrize("expected", [PhaseEvidence.PARAMAGNETIC, PhaseEvidence.DIAMAGNETIC])
def test_the_dipole_follows_b0_in_oblique_slices(expected: PhaseEvidence) -> None:
    _, phase = sphere(1.2, SIGN[expected], tilt_deg=30)
    assert phase_evidence((0.1, -0.2, 0.3), 4.0, phase) == expected


def test_tissue_without_a_source_is_uncertain() -> None:
    _, phase = sphere(1.0, 0.0)
    for center in ((0.1, -0.2, 0.3), (4, 4, 2), (-3, 2, -4)):
        assert phase_evidence(center, 3.0, phase) == PhaseEvidence.UNCERTAIN


def test_a_source_lost_in_noise_is_uncertain() -> None:
    _, phase = sphere(0.5, 0.1, noise=0.3)
    assert phase_evidence((0.1, -0.2, 0.3), 2.0, phase) == PhaseEvidence.UNCERTAIN


def test_without_phase_there_is_no_phase_evidence() -> None:
    assert phase_evidence((0, 0, 0), 3.0, None) == PhaseEvidence.NO_PHASE


def test_beyond_the_image_nothing_is_measured() -> None:
    swi, phase = sphere(1.0, 1.0)
    assert phase_evidence((200, 0, 0), 3.0, phase) == PhaseEvidence.UNCERTAIN
    assert apparent_volume_mm3((200, 0, 0), 3.0, swi) == 0.0


def balls(*places: tuple[tuple[float, float, float], float]) -> Volume:
    """An SWI of brightness 100 with dark balls (center, diameter), sharp, in voxels of 0.5 x 0.5 x 1 mm."""
    shape = (60, 60, 30)
    matrix = np.diag([0.5, 0.5, 1.0, 1.0])
    matrix[:3, 3] = [-15, -15, -15]
    ras = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
    values = 100 + np.random.default_rng(0).normal(0, 5, shape)
    for center, diameter_mm in places:
        values[np.linalg.norm(ras - center, axis=-1) <= diameter_mm / 2] -= 70
    return Volume(values, matrix)


@pytest.mark.parametrize("diameter_mm", [3.0, 5.0, 8.0])
def test_the_volume_of_a_dark_ball_is_that_of_the_ball(diameter_mm: float) -> None:
    swi = balls(((0.2, 0.1, 0.3), diameter_mm))
    expected = np.pi / 6 * diameter_mm**3
    assert apparent_volume_mm3((0, 0, 0), diameter_mm, swi) == pytest.approx(expected, rel=0.12)
    assert apparent_volume_mm3((0.5, 0, 0), 1.3 * diameter_mm, swi) == pytest.approx(expected, rel=0.12)


def test_a_neighbor_that_is_not_connected_does_not_count() -> None:
    alone = apparent_volume_mm3((0, 0, 0), 4, balls(((0, 0, 0), 4)))
    assert apparent_volume_mm3((0, 0, 0), 4, balls(((0, 0, 0), 4), ((4.5, 0, 0), 3))) == alone


def test_a_bright_center_has_no_dark_volume() -> None:
    swi = balls()
    bright = swi.with_array(
        np.where(np.linalg.norm(np.indices(swi.array.shape).T - [30, 30, 15], axis=-1).T < 8, 300, 100)
    )
    assert apparent_volume_mm3((0, 0, 0), 4, bright) == 0.0
