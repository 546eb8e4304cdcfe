"""A classical reference without training: dark blobs by the derivatives of Gaussians over scales (Lindeberg 1998)."""

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
LEAST, LEAST_STRENGTH = 0.1, 0.02  # of the local brightness: fainter blobs are noise; and of what roundness leaves
EDGE_MM = 3.0  # of the searched brain: its dark rim would be a chain of blobs


def find_blobs(network_input: NetworkInput) -> dict[str, list[Detection]]:
    """Find dark blobs of 2-10 mm in the SWI channel: peaks of the Laplacian in space and scale.

    `skimage.feature.blob_log` finds the same peaks but tells no strength, which a FROC curve needs. And the Laplacian
    answers to veins, sulci and the brain's edge as it does to balls: so the edge is left out, and a peak is worth as
    much less as its least second derivative is smaller than its largest. They are equal in a ball; the least
    vanishes in a tube or a sheet.

    Returns
    -------
    dict
        ``darkness and roundness``: by that product, 0-1. ``darkness, roundness and phase``: only those that the phase
        around them does not call diamagnetic.
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
    signed = kept  # where there is no phase, it calls nothing diamagnetic
    if phase.array.any():
        signed = [d for d in kept if dipole_agreement(d.center_ras_mm, d.diameter_mm, phase)[1] > 0]
    return {"darkness and roundness": kept, "darkness, roundness and phase": signed}


def _at_1_mm(network_input: NetworkInput) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.int64]]:
    """SWI channel averaged to 1 mm, and the input voxels per voxel of it along each axis."""
    swi = np.asarray(network_input.array[0], np.float32)
    swi = swi[: swi.shape[0] // 2 * 2, : swi.shape[1] // 2 * 2]
    return (swi[::2, ::2] + swi[1::2, ::2] + swi[::2, 1::2] + swi[1::2, 1::2]) / 4, np.array([2, 2, 1])


def _peaks(swi: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Local maxima (N, 4: scale, R, A, S) of the scale-normalized Laplacian inside the brain, and their strength."""
    sigmas = np.array([diameter / 2 / np.sqrt(3) for diameter in DIAMETERS_MM])
    smooth = np.stack([ndimage.gaussian_filter(swi, sigma, truncate=3) for sigma in sigmas])
    scales = np.stack([sigma**2 * ndimage.laplace(one) for sigma, one in zip(sigmas, smooth, strict=True)])
    inside = ndimage.binary_closing(np.pad(swi != 0, 2))  # voxels of exactly the local brightness belong to it
    depth_mm = ndimage.distance_transform_edt(inside)[2:-2, 2:-2, 2:-2]
    peaks = peak_local_max(scales, threshold_abs=LEAST, exclude_border=False)
    peaks = peaks[depth_mm[tuple(peaks[:, 1:].T)] > EDGE_MM]
    curvature = np.linalg.eigvalsh(_hessians(smooth, peaks))
    strength = scales[tuple(peaks.T)] * curvature[:, 0].clip(0) / curvature[:, 2].clip(1e-6)
    kept = strength >= LEAST_STRENGTH
    return peaks[kept], strength[kept].clip(0, 1)


def _hessians(smooth: npt.NDArray[np.floating], peaks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Second differences (N, 3, 3) of the smoothed image at the peaks' scale and place."""
    steps = np.eye(3, dtype=int)

    def at(shift: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        place = (peaks[:, 1:] + shift).clip(0, np.array(smooth.shape[1:]) - 1)
        return smooth[(peaks[:, 0], *place.T)].astype(float)

    hessians = np.empty((len(peaks), 3, 3))
    for i, one in enumerate(steps):
        for j, other in enumerate(steps):
            if i == j:
                hessians[:, i, i] = at(one) - 2 * at(0 * one) + at(-one)
            else:
                hessians[:, i, j] = (at(one + other) - at(one - other) - at(other - one) + at(-one - other)) / 4
    return hessians
