"""A classical reference without training: dark blobs by the Laplacian of Gaussian over scales (Lindeberg 1998)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.feature import peak_local_max

from CMBDetectorLib.detect import Detection, keep_strongest
from CMBDetectorLib.evidence import dipole_agreement
from CMBDetectorLib.networks.anchors import SPACING_MM
from CMBDetectorLib.preprocessing import NetworkInput
from CMBDetectorLib.volume import Volume

DIAMETERS_MM = (2.0, 3.0, 4.5, 6.7, 10.0)
LEAST = 0.1  # of the local brightness: fainter blobs are noise
MOST_PEAKS = 5000


def find_blobs(network_input: NetworkInput) -> dict[str, list[Detection]]:
    """Find dark blobs of 2-10 mm in the SWI channel: peaks in space and scale, as `skimage.feature.blob_log` does.

    That function tells no strength, which a FROC curve needs, so its steps are made here.

    Returns
    -------
    dict
        ``darkness``: ranked by strength, about the contrast of a ball of that size, 0-1. ``darkness and phase``: only
        those that the phase around them does not call diamagnetic.
    """
    swi, step = _at_1_mm(network_input)
    peaks, strength = _peaks(swi)
    center_mm = peaks[:, 1:] * step * SPACING_MM + (step - 1) / 2 * SPACING_MM
    diameter_mm = np.asarray(DIAMETERS_MM)[peaks[:, 0]]
    matrix = network_input.ijk_to_ras
    center_ras_mm = (center_mm / SPACING_MM) @ matrix[:3, :3].T + matrix[:3, 3]
    kept = [
        Detection((float(r), float(a), float(s)), float(diameter_mm[n]), float(strength[n]))
        for n in keep_strongest(strength, center_mm, diameter_mm)
        for r, a, s in [center_ras_mm[n]]
    ]
    phase = Volume(np.asarray(network_input.array[1], np.float32), matrix)
    signed = [d for d in kept if dipole_agreement(d.center_ras_mm, d.diameter_mm, phase)[1] > 0]
    return {"darkness": kept, "darkness and phase": signed}


def _at_1_mm(network_input: NetworkInput) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.int64]]:
    """SWI channel averaged to 1 mm, and the input voxels per voxel of it along each axis."""
    swi = np.asarray(network_input.array[0], np.float32)
    swi = swi[: swi.shape[0] // 2 * 2, : swi.shape[1] // 2 * 2]
    return (swi[::2, ::2] + swi[1::2, ::2] + swi[::2, 1::2] + swi[1::2, 1::2]) / 4, np.array([2, 2, 1])


def _peaks(swi: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Local maxima (N, 4: scale, R, A, S) of the scale-normalized Laplacian inside the brain, and their strength."""
    sigmas = [diameter / 2 / np.sqrt(3) for diameter in DIAMETERS_MM]
    scales = np.stack([sigma**2 * ndimage.gaussian_laplace(swi, sigma, truncate=3) for sigma in sigmas])
    scales *= swi != 0
    peaks = peak_local_max(scales, threshold_abs=LEAST, exclude_border=False, num_peaks=MOST_PEAKS)
    return peaks, scales[tuple(peaks.T)].astype(float).clip(0, 1)
