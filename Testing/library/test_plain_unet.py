"""The plain U-Net of the ablation: its targets, its loss, and that it learns and trains like the detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.training.config import DetectorTraining
from CMBDetectorLib.training.data import Case, detector_batch
from CMBDetectorLib.training.detector import MaskObjective
from CMBDetectorLib.training.export import export_model
from CMBDetectorLib.training.implants import Scan
from CMBDetectorLib.training.loop import fit
from CMBDetectorLib.training.losses import mask_loss
from CMBDetectorLib.training.targets import IGNORED, NEGATIVE, POSITIVE, Lesions, balls

SMALL = (32, 32, 16)
torch.set_num_threads(1)  # for tensors this small, threads cost more than they give


def silent(stage: str, share: float, message: str) -> None:
    """Progress that nobody reads."""


def lesions(*rows: tuple[float, float, float, float, bool]) -> Lesions:
    """Lesions by center along R, A, S, diameter, all in mm, and whether they count."""
    table = np.reshape(np.array(rows, float), (-1, 5))
    return Lesions(table[:, :3], table[:, 3], table[:, 4].astype(bool))


def test_a_lesion_is_a_ball_of_its_diameter_around_its_center() -> None:
    mask = balls((16, 16, 16), lesions((7.0, 8.0, 6.0, 5.0, True)))
    marked = np.argwhere(mask == POSITIVE)
    # Voxels are 1 mm; the first one's center lies a quarter of a millimeter from the input's along R and A.
    assert np.allclose(marked.mean(axis=0) + (0.25, 0.25, 0), (7.0, 8.0, 6.0), atol=0.3)
    assert len(marked) == pytest.approx(np.pi / 6 * 5**3, rel=0.1)
    assert not (mask == IGNORED).any()


def test_the_smallest_lesion_still_has_a_voxel() -> None:
    assert (balls((8, 8, 8), lesions((3.7, 3.7, 3.5, 0.1, True))) == POSITIVE).sum() >= 1


def test_a_lesion_that_counts_prevails_over_a_faint_one_that_is_ignored() -> None:
    mask = balls((12, 12, 12), lesions((5.0, 5.0, 5.0, 3.0, True), (7.0, 5.0, 5.0, 3.0, False)))
    alone = balls((12, 12, 12), lesions((5.0, 5.0, 5.0, 3.0, True)))
    assert np.array_equal(mask == POSITIVE, alone == POSITIVE)
    assert mask[9, 5, 5] == IGNORED
    assert mask[1, 5, 5] == NEGATIVE


def test_the_mask_loss_vanishes_for_the_truth_and_ignores_what_is_ignored() -> None:
    mask = torch.from_numpy(balls((8, 8, 8), lesions((3.0, 3.0, 3.0, 3.0, True), (6.0, 6.0, 6.0, 2.0, False))))[None]
    right = torch.where(mask == POSITIVE, 20.0, -20.0)
    right[mask == IGNORED] = 20.0
    assert mask_loss(right, mask, 8).item() < 1e-4
    assert mask_loss(-right, mask, 8).item() > 10


def test_a_lesion_missed_counts_however_many_voxels_are_right() -> None:
    mask = torch.from_numpy(balls((32, 32, 32), lesions((16.0, 16.0, 16.0, 3.0, True))))[None]
    nothing = torch.full(mask.shape, -5.0)
    assert mask_loss(nothing, mask, 8).item() > 5
    mimic = torch.where(mask == POSITIVE, 5.0, -5.0)
    mimic[0, 4, 4, 4:8] = 5.0
    right = torch.where(mask == POSITIVE, 5.0, -5.0)
    assert mask_loss(mimic, mask, 8).item() > mask_loss(right, mask, 8).item() + 2


def test_the_plain_unet_learns_to_mark_dark_balls(tmp_path: Path) -> None:
    truth = [lesions((7.3, 8.9, 6.2, 4.0, True), (10.2, 5.1, 11.4, 4.0, True)), lesions()]
    masks = torch.from_numpy(np.stack([balls((16, 16, 16), one) for one in truth]))
    fine = masks.repeat_interleave(2, 1).repeat_interleave(2, 2) == POSITIVE
    image = torch.zeros(2, 3, *SMALL)
    image[:, 0] = 0.05 * torch.randn(2, *SMALL, generator=torch.Generator().manual_seed(0)) - 0.7 * fine
    options = {"out": tmp_path, "cases": tmp_path, "cache": tmp_path, "crop": SMALL, "bfloat16": False}
    config = DetectorTraining(**options, head="mask", steps=60, learning_rate=1e-2, average=0.7)  # type: ignore[arg-type]
    torch.manual_seed(0)
    fit(MaskObjective(config), lambda step: {"image": image, "mask": masks}, config, silent)

    learned = MaskObjective(config)
    learned.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"])
    with torch.no_grad():
        marked = learned.network.eval()(image) > 0
    overlap = 2 * (marked & (masks == POSITIVE)).sum() / (marked.sum() + (masks == POSITIVE).sum())
    assert overlap > 0.8


def test_the_plain_unet_reads_the_very_batches_of_the_detector(tmp_path: Path) -> None:
    image = np.full((2, 48, 48, 24), 0.1, np.float16)
    scan = Scan(rad_per_ppm=16.05, acquired_mm=0.5, slice_mm=2.0)
    case = Case(image, lesions((12.0, 12.0, 12.0, 4.0, True)), np.zeros((48, 48, 24), bool), scan)
    options = {"out": tmp_path, "cases": tmp_path, "cache": tmp_path, "crop": SMALL, "bfloat16": False, "batch": 2}
    one, other = (
        detector_batch([case], DetectorTraining(**options, head=head), 3)  # type: ignore[arg-type]
        for head in ("proposals", "mask")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    marks, teaches = ((one[name] == POSITIVE).flatten(1).any(1).tolist() for name in ("mask", "label"))
    assert marks == teaches


def test_the_plain_unet_is_never_exported(tmp_path: Path) -> None:
    config = DetectorTraining(out=tmp_path, cases=tmp_path, cache=tmp_path, head="mask", steps=0)
    checkpoint = fit(MaskObjective(config), lambda step: {}, config, silent)
    with pytest.raises(InputError, match="plain U-Net"):
        export_model("detector", checkpoint, tmp_path)
    assert not (tmp_path / "detector.pt").exists()


def test_another_head_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'boxes'"):
        DetectorTraining(out=tmp_path, cases=tmp_path, cache=tmp_path, head="boxes")
