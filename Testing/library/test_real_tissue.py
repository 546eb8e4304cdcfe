"""The crop of a real scan: read and processed as the detector's figures in real tissue take for granted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from CMBDetectorLib.candidate import PhaseEvidence
from CMBDetectorLib.evidence import phase_evidence
from CMBDetectorLib.simulation.implant import microbleeds_in
from Testing.real_tissue import Scan, prepared, put_in, scans

VEIN = 20, 30, slice(None)  # a column of voxels, phase +0.5 rad
STORED_PI = 0.00367


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Scan]:
    """All scans of a crop of even tissue with a vein; its phase in numbers of its own, as the real one has."""
    folder: Path = tmp_path_factory.mktemp("crop")
    random = np.random.default_rng(0)
    shape = (3, 41, 51, 51)  # echo, S, A, R
    magnitude = 1 + 0.03 * random.normal(size=shape)
    angle = np.full(shape, 0.8) + 0.03 * random.normal(size=shape)
    angle[:, :, VEIN[1], VEIN[0]] += 0.5
    angle.flat[0] = np.pi
    for name, values in (("Mag", magnitude), ("Phase", angle / np.pi * STORED_PI)):
        image = sitk.GetImageFromArray(values.astype(np.float32), isVector=False)
        image.SetSpacing((0.47, 0.47, 1.0, 1.0))
        image.SetDirection(np.diag([-1.0, -1, 1, 1]).ravel().tolist())
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    return list(scans(folder))


def test_every_echo_comes_in_slices_of_every_thickness_and_with_either_sign(every: list[Scan]) -> None:
    expected = [(te, mm) for te in (8, 12) for mm in (1, 2, 3)]
    assert [(scan.echo_time_ms, scan.slice_mm) for scan in every] == 2 * expected
    assert np.allclose(every[0].phase.array, -every[6].phase.array, atol=1e-5)
    assert [scan.swi.array.shape for scan in every[:3]] == [(51, 51, 41), (51, 51, 20), (51, 51, 13)]
    assert every[2].swi.spacing_mm == pytest.approx((0.47, 0.47, 3))


def test_the_phase_is_in_radians_filtered_and_darkens_the_vein_of_the_swi(every: list[Scan]) -> None:
    for scan in every[:6]:
        assert scan.phase.array[VEIN].mean() == pytest.approx(0.48, abs=0.03)
        assert np.median(scan.phase.array) == pytest.approx(0, abs=0.05)
        assert np.median(scan.swi.array) == pytest.approx(1, abs=0.01)
        assert scan.swi.array[VEIN].mean() == pytest.approx((1 - 0.48 / np.pi) ** 4, abs=0.03)


def test_thicker_slices_have_less_noise(every: list[Scan]) -> None:
    noise = [float(np.std(scan.phase.array[5:15, 5:15])) for scan in every[:3]]
    assert noise[1] == pytest.approx(noise[0] / 2**0.5, rel=0.1)
    assert noise[2] == pytest.approx(noise[0] / 3**0.5, rel=0.1)


def test_what_is_put_in_lies_inside_is_dark_and_looks_paramagnetic(every: list[Scan]) -> None:
    scan = every[1]
    shown, truth = put_in(scan, microbleeds_in, seed=0)
    assert truth["lesions"]
    for lesion in truth["lesions"]:
        i, j, k = np.rint(scan.swi.ijk_of(lesion["center_ras_mm"])).astype(int)
        assert min(i, j) >= 5
        assert max(i, j) < 46
        assert shown.swi.array[i - 1 : i + 2, j - 1 : j + 2, k].min() < 0.75
        evidence = phase_evidence(lesion["center_ras_mm"], lesion["diameter_mm"], prepared(shown))
        assert evidence is PhaseEvidence.PARAMAGNETIC
