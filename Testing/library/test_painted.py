"""What is painted into training crops has the form that it says."""

from __future__ import annotations

import numpy as np
import pytest

from CMBDetectorLib.training.painted import Spot, Vessel, calcified_spot, spot, vessel

SHAPE = (81, 81, 81)
SPACING_MM = np.full(3, 0.25)
MIDDLE_MM = np.full(3, 10.0)
B0 = (0.0, 0.0, 1.0)
ROUND = Spot(center_mm=MIDDLE_MM, semi_axes_mm=np.full(3, 2.0), edge=0.2, depth=0.8, shift_rad=0.5, inside=0.0)


def drawn(what: Spot | Vessel) -> np.ndarray:
    """Complex factor over the whole grid."""
    whole = np.ones(SHAPE, complex)
    found = what.factor(np.zeros(3), SPACING_MM, SHAPE, 1.0, B0)
    assert found is not None
    whole[found[0]] = found[1].numpy()
    return whole


def test_a_spot_is_dark_to_its_radius_and_half_as_dark_there() -> None:
    magnitude = np.abs(drawn(ROUND))
    assert magnitude[40, 40, 40] == pytest.approx(0.2, abs=0.01)
    assert magnitude[48, 40, 40] == pytest.approx(0.6, abs=0.01)
    assert magnitude[40, 40, 54] == pytest.approx(1.0, abs=0.01)


def test_the_field_around_a_spot_is_a_dipole_along_b0() -> None:
    phase = np.angle(drawn(ROUND))
    assert phase[40, 40, 40 + 12] == pytest.approx(0.5 * 2 * (2 / 3) ** 3, rel=0.05)
    assert phase[40 + 12, 40, 40] == pytest.approx(-0.5 * (2 / 3) ** 3, rel=0.05)
    assert phase[40, 40, 40] == pytest.approx(0, abs=0.02)


def test_the_field_of_a_spot_fades_to_nothing_at_the_faces_of_its_box() -> None:
    found = ROUND.factor(np.zeros(3), SPACING_MM, SHAPE, 1.0, B0)
    assert found is not None
    phase = found[1].angle().numpy()
    for axis in range(3):
        assert np.abs(np.take(phase, (0, -1), axis)).max() < 1e-3
    assert abs(phase[phase.shape[0] // 2, phase.shape[1] // 2, 12]) > 0.02


def test_a_calcified_spot_has_the_opposite_field() -> None:
    for seed in range(10):
        center, random = MIDDLE_MM, np.random.default_rng(seed)
        assert calcified_spot(center, random).shift_rad < 0 <= spot(center, random).shift_rad


def test_a_vessel_is_a_tube_of_its_radius_around_its_axis() -> None:
    axis_mm = np.stack([np.full(81, 10.0), np.full(81, 10.0), np.linspace(2, 18, 81)], axis=1)
    factor = drawn(Vessel(balls_mm=axis_mm, radius_mm=1.0, depth=0.6, shift_rad=0.3))
    assert np.allclose(np.abs(factor[40, 40, 12:68]), 0.4, atol=0.01)
    assert np.allclose(np.angle(factor[40, 40, 12:68]), 0.3, atol=0.01)
    area_mm2 = float((1 - np.abs(factor[:, :, 40])).sum() / 0.6 * 0.25**2)
    assert area_mm2 == pytest.approx(np.pi, rel=0.1)


def test_vessels_are_short_as_often_as_long_but_longer_than_thick_and_go_through_their_place() -> None:
    made = [vessel(MIDDLE_MM, np.random.default_rng(seed)) for seed in range(60)]
    lengths_mm = [np.linalg.norm(np.diff(one.balls_mm, axis=0), axis=1).sum() for one in made]
    assert 14 < np.median(lengths_mm) < 26
    for one, length_mm in zip(made, lengths_mm, strict=True):
        assert np.allclose(np.linalg.norm(np.diff(one.balls_mm, axis=0), axis=1), 0.2)
        assert max(5.6, 7 * one.radius_mm) <= length_mm < 51
        assert np.linalg.norm(one.balls_mm - MIDDLE_MM, axis=1).min() == 0


def test_a_vessel_that_leaves_the_grid_is_painted_up_to_its_face() -> None:
    axis_mm = np.stack([np.full(151, 10.0), np.full(151, 10.0), np.linspace(5, 35, 151)], axis=1)
    magnitude = np.abs(drawn(Vessel(balls_mm=axis_mm, radius_mm=1.0, depth=0.6, shift_rad=0.0)))
    assert np.allclose(magnitude[40, 40, 24:], 0.4, atol=0.01)
    assert (magnitude[40, 40, :12] == 1).all()
    off = Vessel(balls_mm=axis_mm + 50, radius_mm=1.0, depth=0.6, shift_rad=0.0)
    assert off.factor(np.zeros(3), SPACING_MM, SHAPE, 1.0, B0) is None


def test_what_lies_off_the_grid_is_not_painted() -> None:
    far = Spot(center_mm=np.full(3, 90.0), semi_axes_mm=np.full(3, 2.0), edge=0.2, depth=0.8, shift_rad=0.5, inside=0.0)
    assert far.factor(np.zeros(3), SPACING_MM, SHAPE, 1.0, B0) is None
