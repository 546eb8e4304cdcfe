from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from CMBDetectorLib import models
from CMBDetectorLib.detect import MOST, TILE_BLOCKS, detect, keep_strongest, smoothed, tiles
from CMBDetectorLib.errors import Cancelled, DeviceMemoryError
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.anchors import MULTIPLE, SPACING_MM, STRIDE, decode
from CMBDetectorLib.phase import high_pass
from CMBDetectorLib.phase_range import to_radians
from CMBDetectorLib.preprocessing import NetworkInput, detector_input
from CMBDetectorLib.resampling import crop
from CMBDetectorLib.volume import read_volume
from Testing.small_scan import SAMPLE

TO_RAS = np.array([[0.5, 0, 0, -60.25], [0, 0.48, -0.2, 11.5], [0, 0.14, 0.98, -3.0], [0, 0, 0, 1]])


class Darkness(nn.Module):
    """Answers with the mean darkness of each 2 mm cell, for the middle anchor, in boxes of 5 mm."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        darkness = nn.functional.avg_pool3d(-x[:, :1], STRIDE)
        logits = torch.cat((torch.full_like(darkness, -20), 20 * darkness - 8, torch.full_like(darkness, -20)), dim=1)
        return logits, torch.zeros((len(x), 3, 4, *logits.shape[2:]))


class RandomWeights(nn.Module):
    """Pooling and a 5x5x5 convolution of random weights: sees 5 mm around each cell, less than the tiles' halo."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.answer = nn.Conv3d(2, 15, 5, padding=2)
        nn.init.normal_(self.answer.weight, std=0.15)
        nn.init.constant_(self.answer.get_parameter("bias"), -1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.answer(nn.functional.avg_pool3d(x, STRIDE) * 4).unflatten(1, (3, 5))
        return answer[:, :, 0], answer[:, :, 1:]


class Scarce(nn.Module):
    """A network on a device whose memory holds so many blocks of input and no more, and what it was asked."""

    def __init__(self, module: nn.Module, blocks: int) -> None:
        super().__init__()
        self.module, self.most, self.answered = module, blocks * math.prod(MULTIPLE), 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x[0, 0].numel() > self.most:
            raise RuntimeError(  # as TorchScript tells what the GPU's allocator raised
                "The following operation failed in the TorchScript interpreter.\nRuntimeError: CUDA out of memory. "
                "Tried to allocate 2.00 GiB."
            )
        self.answered += 1
        return self.module(x)


def model_of(module: nn.Module) -> Model:
    """A model around a module, which need not be TorchScript to be called."""
    return Model(module.eval(), {}, torch.device("cpu"), torch.float32, "cpu, float32")  # type: ignore[arg-type]


def quiet(stage: str, fraction: float, message: str) -> None:
    assert stage == "detect" and 0 <= fraction <= 1 and message


@pytest.mark.parametrize("shape", [(4200, 20, 12), (30, 4200, 16), (32, 36, 1100)])
def test_too_little_memory_means_smaller_parts_the_same_detections_and_a_notice(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    array = rng.uniform(-1, 1, (2, *shape)).astype(np.float32)
    module = RandomWeights()
    scarce = Scarce(module, TILE_BLOCKS[-1])
    told: list[str] = []
    notices: list[str] = []
    found = detect(
        model_of(scarce),
        NetworkInput(array, np.diag([0.5, 0.5, 1, 1])),
        0.5,
        lambda *event: told.append(event[2]),
        notices.append,
    )
    assert scarce.answered > 1
    assert notices == ["The memory of the GPU was scarce, so the brain was searched in smaller parts."]
    assert "Too little memory; searching in smaller parts" in told

    margins = [(0, 0), *((0, -n % multiple) for n, multiple in zip(shape, MULTIPLE, strict=True))]
    looks = [np.pad(look, margins) for look in (array, smoothed(torch.from_numpy(array)).numpy())]
    with torch.inference_mode():
        answers = [module(torch.from_numpy(look[None])) for look in looks]
    logits, boxes = (sum(parts) / 2 for parts in zip(*answers, strict=True))
    probability, center_mm, diameter_mm = decode(logits, boxes, 0.5)
    kept = keep_strongest(probability, center_mm, diameter_mm)
    assert len(kept) > 20
    rows = np.array([(*d.center_ras_mm, d.diameter_mm, d.probability) for d in found])
    expected = np.column_stack([center_mm, diameter_mm, probability])[kept]
    found_rows, expected_rows = (each[each[:, :3].sum(axis=1).argsort()] for each in (rows, expected))
    assert np.allclose(found_rows, expected_rows, atol=1e-4)  # near ties may swap places


def test_where_the_smallest_parts_do_not_fit_the_gpu_is_named() -> None:
    array = -np.ones((2, 64, 64, 32), np.float32)
    with pytest.raises(DeviceMemoryError, match="GPU"):
        detect(model_of(Scarce(Darkness(), 0)), NetworkInput(array, TO_RAS), 0.5, quiet)


def test_a_brain_is_searched_at_once_where_memory_allows() -> None:
    assert len(list(tiles((306, 370, 151)))) == 1  # 137 x 169 x 135 mm, and 8 mm around


@pytest.mark.parametrize("largest", [*TILE_BLOCKS, 27])
@pytest.mark.parametrize("shape", [(1, 1, 1), (257, 300, 129), (600, 32, 16), (400, 480, 500)])
def test_the_kept_parts_of_the_tiles_cover_every_block_once(shape: tuple[int, int, int], largest: int) -> None:
    covered = np.zeros([-(-n // multiple) for n, multiple in zip(shape, MULTIPLE, strict=True)], int)
    for tile in tiles(shape, largest):
        spans = []
        for read, kept, multiple, blocks in zip(tile.read, tile.kept, MULTIPLE, covered.shape, strict=True):
            assert all(place % multiple == 0 for place in (*read, *kept))
            first, last = kept[0] // multiple, kept[1] // multiple
            assert read == (max(first - 1, 0) * multiple, min(last + 1, blocks) * multiple)
            spans.append(slice(first, last))
        covered[tuple(spans)] += 1
        assert math.prod(stop - start for start, stop in tile.read) <= largest * math.prod(MULTIPLE)
    assert (covered == 1).all()


def test_a_dark_spot_is_found_where_it_lies_in_the_patient() -> None:
    array = np.zeros((2, 300, 40, 40), np.float32)
    array[0, 276:280, 20:24, 10:12] = -1  # one cell: its center is voxel (277.5, 21.5, 10.5)
    (only,) = detect(model_of(Darkness()), NetworkInput(array, TO_RAS), 0.5, quiet)
    assert np.allclose(only.center_ras_mm, (TO_RAS @ [277.5, 21.5, 10.5, 1])[:3])
    assert only.diameter_mm == pytest.approx(5.0)
    assert only.probability > 0.99


def test_smoothing_spreads_a_point_by_half_a_millimeter_along_every_axis_and_keeps_its_sum() -> None:
    array = torch.full((3, 41, 41, 41), 1e-12)
    array[0, 20, 20, 20], array[2] = 1.0, 0.25
    swi, phase, spacing = smoothed(array)
    assert float(swi.sum()) == pytest.approx(1.0, abs=1e-5)
    for axis, spacing_mm in enumerate(SPACING_MM):
        profile = swi.sum(dim=[other for other in range(3) if other != axis])
        variance_mm2 = float((profile * (spacing_mm * (torch.arange(41) - 20.0)) ** 2).sum())
        assert np.sqrt(variance_mm2) == pytest.approx(0.5, abs=1e-3)
    assert float(phase.max()) < 1e-10
    assert (spacing == 0.25).all()


def test_smoothing_neither_darkens_the_edge_of_the_brain_nor_reaches_beyond_it() -> None:
    array = torch.full((3, 32, 32, 16), 0.3)
    array[:, :9] = 0
    assert torch.allclose(smoothed(array), array)


def test_a_detection_has_the_mean_log_odds_of_the_scan_as_it_is_and_smoothed() -> None:
    rng = np.random.default_rng(0)
    array = np.full((2, 64, 64, 32), 1e-6, np.float32)
    array[0] += rng.choice([-1.0, 1.0], array[0].shape)
    array[0, 28:32, 28:32, 14:16] = -1  # one black cell
    module = Darkness()
    strongest, *_ = detect(model_of(module), NetworkInput(array, TO_RAS), 0.5, quiet)
    plain, smooth = (
        float(module(look[None])[0].max()) for look in (torch.from_numpy(array), smoothed(torch.from_numpy(array)))
    )
    assert smooth < plain - 2
    assert math.log(strongest.probability / (1 - strongest.probability)) == pytest.approx(
        (plain + smooth) / 2, abs=1e-3
    )


def test_an_empty_brain_gives_no_detection_and_does_not_ask_the_network() -> None:
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            if x.numel() > 0:
                raise RuntimeError("asked")
            return x, x

    empty = NetworkInput(np.zeros((2, 64, 64, 32), np.float32), TO_RAS)
    assert detect(model_of(Refuses()), empty, 0.1, quiet) == []


@pytest.mark.parametrize(("after", "answered"), [(0.0, 1), (0.3, 2)], ids=["looks", "tiles"])
def test_a_cancel_stops_between_looks_and_between_tiles(after: float, answered: int) -> None:
    def cancel(stage: str, fraction: float, message: str) -> None:
        if fraction > after:
            raise Cancelled

    array = -np.ones((2, 4200, 32, 16), np.float32)
    scarce = Scarce(Darkness(), TILE_BLOCKS[-1])
    with pytest.raises(Cancelled):
        detect(model_of(scarce), NetworkInput(array, TO_RAS), 0.1, cancel)
    assert scarce.answered == answered


def test_bfloat16_loses_no_lesion_and_moves_no_probability_by_more_than_002(monkeypatch: pytest.MonkeyPatch) -> None:
    swi, phase, mars = (read_volume(SAMPLE.swi.with_name(f"{name}.nii.gz")) for name in ("swi", "phase", "mars"))
    r, a, s = np.floor(swi.in_ras_order().ijk_of([-60, -82, -48])).astype(int)
    box = slice(r, r + 104), slice(a, a + 104), slice(s, s + 31)  # 62 mm wide, with two lesions
    swi, radians, mars = (crop(volume, box) for volume in (swi, to_radians(phase)[0], mars))
    filtered = swi.with_array(high_pass(radians.array, swi.array, swi.ijk_to_ras))
    seen = detector_input(swi, filtered, mars.with_array(mars.array > 0))
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(models, "working_dtype", lambda device, dtype=dtype: dtype)
        model = models.load_model("detector", device="cpu")
        assert model.dtype == dtype
        found[dtype] = detect(model, seen, 0.1, quiet)
    expected = [d for d in found[torch.float32] if d.probability >= 0.3]
    assert len(expected) >= 2
    for one in expected:
        near = min(found[torch.bfloat16], key=lambda other: math.dist(other.center_ras_mm, one.center_ras_mm))
        assert math.dist(near.center_ras_mm, one.center_ras_mm) < 1
        assert near.probability == pytest.approx(one.probability, abs=0.02)


def test_one_lesion_seen_by_neighboring_cells_and_anchors_stays_one() -> None:
    center_mm = np.array([[0, 0, 0], [2, 0, 0], [0, 1.2, 0.5], [0.4, 0, 0]], float)
    kept = keep_strongest(np.array([0.7, 0.6, 0.9, 0.5]), center_mm, np.array([5.0, 5, 5, 2.5]))
    assert kept.tolist() == [2]


def test_two_small_lesions_four_millimeters_apart_stay_two() -> None:
    center_mm = np.array([[0, 0, 0], [4, 0, 0]], float)
    assert keep_strongest(np.array([0.6, 0.9]), center_mm, np.array([3.0, 3.5])).tolist() == [1, 0]


def test_a_weaker_box_on_the_rim_of_a_lesion_is_the_same_lesion() -> None:
    center_mm = np.array([[0, 0, 0], [4, 0, 0]], float)
    assert keep_strongest(np.array([0.6, 0.9]), center_mm, np.array([3.0, 5.5])).tolist() == [1]


def test_small_boxes_closer_than_the_grid_can_tell_are_one() -> None:
    center_mm = np.array([[0, 0, 0], [0, 0, 1.4]], float)
    assert keep_strongest(np.array([0.6, 0.9]), center_mm, np.array([2.0, 2.0])).tolist() == [1]


def test_no_more_candidates_are_kept_than_anybody_reads():
    count = MOST + 50
    probability = np.linspace(0.9, 0.1, count)
    center_mm = np.arange(count)[:, None] * np.array([[10.0, 0.0, 0.0]])
    kept = keep_strongest(probability, center_mm, np.full(count, 3.0))
    assert kept.tolist() == list(range(MOST))
