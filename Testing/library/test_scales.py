from __future__ import annotations

import numpy as np
import pytest
import torch

from CMBDetectorLib.networks.anchors import SPACING_MM
from CMBDetectorLib.scales import SCALES, at_full_size, scaled

SMALLER = [scale for scale in SCALES if scale != 1]


def ball(center: tuple[float, float, float], radius_mm: float) -> torch.Tensor:
    """Network input, all of it brain, with a dark ball around a voxel."""
    places = np.stack(np.meshgrid(*map(np.arange, (64, 60, 40)), indexing="ij"), axis=-1)
    distance_mm = np.linalg.norm((places - center) * SPACING_MM, axis=-1)
    darkness = np.clip(radius_mm + 0.5 - distance_mm, 0, 1)
    return torch.from_numpy(np.stack([-darkness - 1e-9, 0 * darkness, 0 * darkness + 0.25]).astype(np.float32))


def test_the_first_scale_is_the_scan_itself() -> None:
    array = ball((30, 30, 20), 3)
    assert SCALES[0] == 1
    assert scaled(array, 1.0) is array
    log_odds = torch.rand(4, 4, 4)
    assert at_full_size(log_odds, 1.0, (4, 4, 4)) is log_odds


@pytest.mark.parametrize("scale", SMALLER)
@pytest.mark.parametrize("center", [(31.0, 27.0, 19.0), (12.3, 40.6, 8.2)])
def test_a_ball_lies_at_the_shrunk_place_and_is_as_much_smaller(
    scale: float, center: tuple[float, float, float]
) -> None:
    full = ball(center, 4.0)
    small = scaled(full, scale)
    assert small.shape[1:] == tuple(int(n * scale) for n in full.shape[1:])
    darkness = -small[0].double()
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in darkness.shape), indexing="ij")).double()
    gravity = (places * darkness).sum(dim=(1, 2, 3)) / darkness.sum()
    # Corners of both grids lie together: a voxel's middle is half a voxel from there.
    assert gravity.numpy() == pytest.approx((np.array(center) + 0.5) * scale - 0.5, abs=0.05)
    assert float(darkness.sum()) == pytest.approx(float(-full[0].double().sum()) * scale**3, rel=0.03)
    assert torch.allclose(small[2], torch.tensor(0.25))


@pytest.mark.parametrize("scale", SMALLER)
@pytest.mark.parametrize("edge", range(10, 23))  # every share of a voxel that is partly brain
def test_shrinking_neither_darkens_the_edge_of_the_brain_nor_reaches_beyond_it(scale: float, edge: int) -> None:
    array = torch.full((3, 40, 40, 20), 0.3)
    array[:, :edge] = 0
    small = scaled(array, scale)
    shown = small[0] != 0
    assert torch.allclose(small[:, shown], torch.tensor(0.3))
    assert not small[:, ~shown].any()
    first = int(shown.any(dim=2).any(dim=1).nonzero()[0])
    assert edge <= (first + 0.5) / scale <= edge + 1 / scale  # the first voxel whose middle is brain


@pytest.mark.parametrize("scale", SMALLER)
def test_phase_around_its_wrap_stays_there(scale: float) -> None:
    array = torch.full((3, 40, 40, 20), 0.3)
    array[1] = torch.where(torch.rand(40, 40, 20, generator=torch.manual_seed(0)) < 0.5, 0.95, -0.95)
    assert float(scaled(array, scale)[1].abs().min()) >= 0.95 - 1e-4


@pytest.mark.parametrize("scale", SMALLER)
def test_phase_keeps_its_sign_and_strength(scale: float) -> None:
    array = torch.full((3, 40, 40, 20), 0.3)
    array[1, 20:] = -0.6
    phase = scaled(array, scale)[1]
    border = round(20 * scale)
    assert torch.allclose(phase[: border - 2], torch.tensor(0.3), atol=1e-5)
    assert torch.allclose(phase[border + 2 :], torch.tensor(-0.6), atol=1e-5)


@pytest.mark.parametrize("scale", SMALLER)
def test_log_odds_come_back_to_where_they_were_found(scale: float) -> None:
    log_odds = torch.arange(24.0)[:, None, None].expand(24, 24, 24)  # the cell's index along R
    found = at_full_size(log_odds, scale, (24, 20, 22))
    assert found.shape == (24, 20, 22)
    assert found[1:, 3, 5].numpy() == pytest.approx((np.arange(1, 24) + 0.5) * scale - 0.5, abs=1e-4)
