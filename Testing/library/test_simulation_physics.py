"""The simulator's physics and sources against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csgraph
from scipy.spatial import ConvexHull

from CMBDetectorLib.simulation.acquisition import homodyne, phase_mask
from CMBDetectorLib.simulation.field import fast_length, field_shift_ppm
from CMBDetectorLib.simulation.protocols import PROTOCOLS, Protocol
from CMBDetectorLib.simulation.sources import Source, irregular, ragged

CHI_PPM = 1.0


def distances(n: int, center: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axis = torch.arange(n, dtype=torch.float32) - center
    r, a, s = torch.meshgrid(axis, axis, axis, indexing="ij")
    return r, a, s


def soft_ball(n: int, radius: float) -> torch.Tensor:
    """Volume fraction of a ball on a grid, by 4 x 4 x 4 samples a voxel."""
    fine = (torch.arange(4 * n, dtype=torch.float32) + 0.5) / 4 - 0.5 - (n - 1) / 2
    squared = fine[:, None, None] ** 2 + fine[None, :, None] ** 2 + fine[None, None, :] ** 2
    inside = (squared < radius**2).float()[None, None]
    return torch.nn.functional.avg_pool3d(inside, 4)[0, 0]


def test_the_field_of_a_sphere_is_a_dipole_outside_and_zero_inside():
    n, radius = 96, 10.0
    field = field_shift_ppm(CHI_PPM * soft_ball(n, radius), (1.0, 1.0, 1.0), padding=96)
    r, a, s = distances(n, (n - 1) / 2)
    distance = (r**2 + a**2 + s**2).sqrt()
    expected = CHI_PPM / 3 * (radius / distance) ** 3 * (3 * s**2 / distance**2 - 1)
    outside = (distance > radius + 2) & (distance < 2.5 * radius)
    # The unknown mean of the padded grid is a constant offset; it is taken out on both sides.
    error = (field - expected)[outside] - (field - expected)[outside].mean()
    assert error.abs().max() < 0.02 * expected[outside].abs().max()
    inside = field[distance < radius - 2] - (field - expected)[outside].mean()
    assert inside.abs().max() < 0.02 * CHI_PPM


@pytest.mark.parametrize("degrees", [0.0, 30.0, 54.7, 90.0])
def test_the_field_of_a_long_cylinder_follows_its_angle_to_b0(degrees):
    n, radius = 96, 6.0
    fine = (torch.arange(4 * n, dtype=torch.float32) + 0.5) / 4 - 0.5 - (n - 1) / 2
    disc = ((fine[:, None] ** 2 + fine[None] ** 2) < radius**2).float()[None, None]
    disc = torch.nn.functional.avg_pool2d(disc, 4)[0, 0]
    chi = CHI_PPM * disc[:, :, None].expand(n, n, n).contiguous()  # endless along S: the grid is periodic
    angle = np.deg2rad(degrees)
    b0 = (float(np.sin(angle)), 0.0, float(np.cos(angle)))
    field = field_shift_ppm(chi, (1.0, 1.0, 1.0), b0)[:, :, n // 2]
    axis = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
    r, a = torch.meshgrid(axis, axis, indexing="ij")
    distance = (r**2 + a**2).sqrt()
    azimuth = torch.atan2(a, r)
    outer = CHI_PPM / 2 * (radius / distance) ** 2 * np.sin(angle) ** 2 * torch.cos(2 * azimuth)
    inner = CHI_PPM / 6 * (3 * np.cos(angle) ** 2 - 1)
    # Same for all angles: in the k = 0 term the grid subtracts the mean field of its periodic array of cylinders.
    near = (distance > radius + 1.5) & (distance < 2.5 * radius)
    offset = (field - outer)[near].mean()
    scale = max(float(outer.abs().max()), abs(inner))  # at 0 degrees, nothing is outside
    assert ((field - outer)[near] - offset).abs().max() < 0.02 * scale
    assert (field[distance < radius - 1.5].mean() - offset - inner).abs() < 0.02 * CHI_PPM


def test_a_sphere_has_two_thirds_of_its_susceptibility_as_field_at_the_poles_and_minus_a_third_at_the_equator():
    n, radius = 128, 20.0
    field = field_shift_ppm(CHI_PPM * soft_ball(n, radius), (1.0, 1.0, 1.0), padding=128)
    center = (n - 1) / 2
    middle, edge = n // 2, n // 2 + 22  # 2 mm outside the surface
    offset = field[middle, middle, middle]  # zero inside a sphere, but for the unknown mean
    for place, share in (((middle, middle, edge), 2 / 3), ((edge, middle, middle), -1 / 3)):
        r, a, s = (x - center for x in place)
        squared = r * r + a * a + s * s
        expected = CHI_PPM / 3 * (radius**2 / squared) ** 1.5 * (3 * s * s / squared - 1)
        assert expected == pytest.approx(share * (radius / (edge - center)) ** 3, rel=0.01), "a pole, or the equator"
        assert field[place] - offset == pytest.approx(expected, rel=0.01)


def test_the_phase_at_three_tesla_and_20_ms_is_16_rad_per_ppm():
    assert PROTOCOLS["3T-2mm"].rad_per_ppm == pytest.approx(16.05, abs=0.01)


def ball(chi_ppm: float, diameter_mm: float = 2.0, at_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Source:
    return Source(
        kind="microbleed", balls_mm=np.array([at_mm]), radii_mm=np.array([diameter_mm / 2]), chi_ppm=chi_ppm,
        inside_signal=0.5,
    )  # fmt: skip


SPACING, SHAPE = np.array([0.5, 0.5, 0.5]), (64, 64, 64)
ORIGIN = -SPACING * (np.array(SHAPE) - 1) / 2
UPRIGHT = (0.0, 0.0, 1.0)


def signal_of(sources: list[Source], rad_per_ppm: float) -> torch.Tensor:
    image = torch.ones(SHAPE, dtype=torch.complex64)
    for source in sources:
        found = source.factor(ORIGIN, SPACING, SHAPE, rad_per_ppm, UPRIGHT)
        assert found is not None
        box, factor = found
        image[box] *= factor
    return image


@pytest.mark.parametrize("softness", [0.3, 0.7, 1.0])
def test_a_soft_ball_fades_out_within_its_radius_and_far_away_is_the_dipole_of_what_it_holds(softness: float) -> None:
    radius_mm, chi_ppm = 3.0, 0.5
    # Centered on a grid point; the edge falls linearly, so the ball holds (1 - (1 - s)^4) / 4 s of a sharp one, but for
    # a quarter of a voxel that the grid adds to it on either side.
    source = replace(ball(chi_ppm, 2 * radius_mm, at_mm=(0.25, 0.25, 0.25)), softness=softness)
    image = signal_of([source], rad_per_ppm=1.0)
    far_mm = 5.0
    pole = image[32, 32, 32 + round(far_mm / SPACING[2])]
    dipole = 2 / 3 * chi_ppm * (radius_mm / far_mm) ** 3 * (1 - (1 - softness) ** 4) / (4 * softness)
    assert float(pole.angle()) == pytest.approx(dipole, rel=0.1)
    lost = (1 - image[32:, 32, 32].abs().numpy()) / (1 - source.inside_signal)
    distance_mm = SPACING[0] * np.arange(32)
    assert np.interp(radius_mm * (1 - softness / 2), distance_mm, lost) == pytest.approx(0.5, abs=0.05)
    assert np.interp(radius_mm + SPACING[0], distance_mm, lost) == pytest.approx(0.0, abs=1e-6)


def apparent_mm(source: Source, protocol: Protocol) -> float:
    """Diameter of the ball that loses over a fifth of its signal in voxels of 0.5 x 0.5 x 2 mm."""
    image = signal_of([source], protocol.rad_per_ppm)
    voxels = image.view(64, 64, 16, 4).mean(dim=3)
    lost = 1 - voxels.abs() * phase_mask(voxels.angle()) ** 4
    return float(np.cbrt(6 * float((lost > 0.2).sum()) * 0.5 / np.pi))


def test_a_microbleed_looks_larger_at_a_longer_echo():
    from dataclasses import replace

    short = PROTOCOLS["3T-2mm"]
    diameters = [apparent_mm(ball(1.0), replace(short, echo_time_ms=te)) for te in (10.0, 20.0, 40.0)]
    assert diameters[0] < diameters[1] < diameters[2]
    assert diameters[1] > 2.0, "blooming makes the dark blob larger than its source"


def test_calcification_has_the_opposite_phase_of_a_microbleed():
    bleed, calcium = (signal_of([ball(chi)], 16.05) for chi in (0.3, -0.3))
    assert torch.allclose(bleed.angle(), -calcium.angle(), atol=1e-4)
    assert float(bleed.angle()[32, 32, 32 + 3]) > 0.1, "paramagnetic poles are positive"
    assert float(bleed.angle()[32 + 3, 32, 32]) < -0.05, "and the equator is negative"


def test_two_sources_put_in_one_after_the_other_equal_both_at_once():
    one, other = ball(0.8, at_mm=(-3.0, 0.0, 0.0)), ball(-0.5, at_mm=(3.0, 1.0, 0.0))
    in_turn = signal_of([one, other], 16.05)
    chi = torch.zeros(128, 128, 128)
    axis = (torch.arange(128, dtype=torch.float32) - 63.5) / 4
    fraction = []
    for source in (one, other):
        squared = [(axis - float(c)) ** 2 for c in source.balls_mm[0]]
        distance = (squared[0][:, None, None] + squared[1][None, :, None] + squared[2][None, None, :]).sqrt()
        share = ((1.0 - distance) / 0.125 + 0.5).clamp(0, 1)
        fraction.append(share)
        chi += share * source.chi_ppm
    phase = 16.05 * field_shift_ppm(chi, (0.25, 0.25, 0.25), padding=64)
    joint = torch.polar(1 - 0.5 * (fraction[0] + fraction[1]), phase)
    joint = joint.view(64, 2, 64, 2, 64, 2).mean(dim=(1, 3, 5))
    near = slice(20, 44)
    both = torch.stack([in_turn[near, near, near], joint[near, near, near]])
    # Exact but for sources that share a half-millimeter voxel and for the fading edge of each source's box.
    assert (both[0] - both[1]).abs().mean() < 0.01
    assert (both[0] - both[1]).abs().max() < 0.15


def test_the_phase_mask_darkens_paramagnetic_phase_only():
    assert phase_mask(torch.tensor([-3.0, 0.0])).tolist() == [1.0, 1.0]
    assert phase_mask(torch.tensor([np.pi / 2, np.pi])).tolist() == pytest.approx([0.5, 0.0], abs=1e-6)


def test_the_homodyne_filter_takes_out_slow_phase_and_keeps_fast_phase():
    axis = torch.arange(128, dtype=torch.float32)
    slow = torch.sin(2 * torch.pi * axis / 128)[:, None, None].expand(128, 128, 1)
    fast = 0.3 * torch.cos(2 * torch.pi * axis / 4)[:, None, None].expand(128, 128, 1)
    image = torch.polar(torch.ones(128, 128, 1), slow + fast)
    filtered = homodyne(image, resolution_mm=4.0, pixel_mm=[0.5, 0.5])
    assert (filtered - fast).abs()[16:-16, 16:-16].mean() < 0.05


def test_both_windows_of_the_phase_filter_keep_half_of_the_same_frequency():
    resolution_mm, pixel_mm = 4.0, 0.5
    cycles = round(128 * pixel_mm / (4 * resolution_mm))  # a quarter of 1 / resolution
    wave = 0.05 * torch.cos(2 * torch.pi * cycles * torch.arange(128) / 128)[:, None, None].expand(128, 128, 1)
    image = torch.polar(torch.ones(128, 128, 1), wave)
    for window in ("hann", "gaussian"):
        filtered = homodyne(image, resolution_mm, [pixel_mm, pixel_mm], window)
        assert float(filtered.abs().max() / wave.abs().max()) == pytest.approx(0.5, abs=0.01)


def test_lengths_are_padded_to_what_transforms_like():
    assert [fast_length(n) for n in (7, 97, 128)] == [8, 100, 128]


def test_ragged_sources_are_of_one_piece_around_their_place_and_as_wide_as_asked() -> None:
    place_mm = np.array([3.0, -2.0, 5.0])
    for seed in range(100):
        source = ragged("microbleed", place_mm, 6.0, 0.5, 0.3, np.random.default_rng(seed), 9)
        assert np.allclose(source.center_mm, place_mm)
        apart_mm = np.linalg.norm(source.balls_mm[:, None] - source.balls_mm, axis=-1)
        touching = apart_mm < source.radii_mm[:, None] + source.radii_mm
        assert csgraph.connected_components(touching)[0] == 1
        reach_mm = np.linalg.norm(source.balls_mm - place_mm, axis=1) + source.radii_mm
        assert reach_mm.max() == pytest.approx(3.0)


def test_ragged_sources_fill_less_of_their_hull_than_irregular_ones() -> None:
    def solidity(make: Callable[..., Source], seed: int) -> float:
        source = make("microbleed", np.zeros(3), 6.0, 0.5, 0.3, np.random.default_rng(seed), 9)
        grid_mm = np.stack(np.meshgrid(*[np.arange(-3, 3, 0.2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        distance_mm = np.linalg.norm(grid_mm[:, None] - source.balls_mm, axis=-1)
        inside_mm = grid_mm[(distance_mm <= source.radii_mm).any(axis=1)]
        return float(len(inside_mm) * 0.2**3 / ConvexHull(inside_mm).volume)

    of_ragged, of_irregular = ([solidity(make, seed) for seed in range(20)] for make in (ragged, irregular))
    assert np.median(of_ragged) < np.median(of_irregular) - 0.1
