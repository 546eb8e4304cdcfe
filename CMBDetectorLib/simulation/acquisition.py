"""From a complex image to what the scanner stores: k-space, noise, coil, and the vendor's SWI and phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from CMBDetectorLib.simulation.protocols import Protocol

BRIGHTEST = 2.0


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images of one scan, shape (R, A, slices), on the reconstructed pixel grid.

    Attributes
    ----------
    swi : Tensor
        Phase-masked magnitude, arbitrary units.
    phase_rad : Tensor
        With the vendor's sign, high-pass filtered or, for `raw_phase`, wrapped as acquired.
    moved : bool
        Whether the head moved during the scan.
    """

    swi: torch.Tensor
    phase_rad: torch.Tensor
    moved: bool


def sample(image: torch.Tensor, fov_mm: Sequence[float], protocol: Protocol) -> torch.Tensor:
    """Spectrum of the complex (R, A, slices) image of a finer grid, as far out as the protocol samples k-space.

    Scaled so that its inverse transform has the image's units.
    """
    size = image.shape[:2]
    acquired = [min(n, 2 * round(f / protocol.acquired_mm / 2)) for n, f in zip(size, fov_mm, strict=True)]
    spectrum = _resize_spectrum(torch.fft.fft2(image, dim=(0, 1)), acquired)
    return spectrum * (acquired[0] * acquired[1] / (size[0] * size[1]))


def acquire(
    spectrum: torch.Tensor,
    fov_mm: Sequence[float],
    protocol: Protocol,
    random: np.random.Generator,
    noise: torch.Generator,
    white_matter: float,
    raw_phase: bool = False,
) -> StoredImages:
    """Disturb and reconstruct sampled spectra slice by slice.

    Parameters
    ----------
    spectrum : complex Tensor, shape (R, A, slices)
        From `sample`.
    fov_mm : sequence of float
        Field of view along R and A, mm.
    white_matter : float
        Signal that `protocol.snr` refers to.
    """
    acquired = spectrum.shape[:2]
    stored = [2 * round(f / protocol.pixel_mm / 2) for f in fov_mm]
    image = torch.fft.ifft2(spectrum, dim=(0, 1))
    spectrum = torch.fft.fft2(image * _coil(image, random), dim=(0, 1))
    sigma = white_matter / protocol.snr * (acquired[0] * acquired[1]) ** 0.5
    disturbance = torch.randn((*spectrum.shape, 2), generator=noise, device=spectrum.device)
    spectrum = spectrum + sigma * torch.view_as_complex(disturbance)
    moved = bool(random.random() < 0.15)
    if moved:  # phase-encode lines are inconsistent, so ghosts appear
        lines = spectrum.shape[1]
        shift = np.where(random.random(lines) < 0.08, random.normal(0, 0.25, lines), 0.0)
        shift[[0, 1, 2, -1, -2]] = 0.0
        spectrum = spectrum * torch.polar(torch.ones(lines), torch.from_numpy(shift).float()).to(image)[None, :, None]
    spectrum = _resize_spectrum(spectrum, stored)
    image = torch.fft.ifft2(spectrum, dim=(0, 1)) * (stored[0] * stored[1] / (acquired[0] * acquired[1]))
    pixel_mm = [f / n for f, n in zip(fov_mm, stored, strict=True)]
    filtered = homodyne(image, protocol.filter_mm, pixel_mm, protocol.filter_window)
    swi = image.abs() * phase_mask(filtered) ** protocol.mask_power
    phase = image.angle() if raw_phase else filtered
    if protocol.masks_air:
        around = F.avg_pool2d(image.abs().permute(2, 0, 1)[None], 5, stride=1, padding=2)[0].permute(1, 2, 0)
        head = around > 3 * white_matter / protocol.snr  # noise alone averages 1.25 standard deviations
        swi, phase = swi * head, phase * head
    return StoredImages(swi, phase * protocol.paramagnetic_sign, moved)


def homodyne(
    image: torch.Tensor, resolution_mm: float, pixel_mm: Sequence[float], window: str = "hann"
) -> torch.Tensor:
    """High-pass filtered phase, rad: the phase against that of the image low-passed by a window in k-space.

    `resolution_mm` is the pixel size that the width of a Hann window corresponds to (Wang et al. 2000); a Gaussian
    window falls to one half at the same frequency.
    """
    windows = []
    for n, mm in zip(image.shape[:2], pixel_mm, strict=True):
        k = torch.fft.fftfreq(n, mm, device=image.device).abs() * 2 * resolution_mm  # 1 at the edge of the window
        hann = torch.where(k < 1, torch.cos(torch.pi / 2 * k) ** 2, 0.0)
        windows.append(hann if window == "hann" else 0.5 ** (4 * k**2))
    spectrum = torch.fft.fft2(image, dim=(0, 1)) * windows[0][:, None, None] * windows[1][None, :, None]
    low = torch.fft.ifft2(spectrum, dim=(0, 1))
    return (image * low.conj()).angle()


def phase_mask(phase_rad: torch.Tensor) -> torch.Tensor:
    """Weight that darkens paramagnetic (positive) phase: 1 up to zero, falling linearly to 0 at pi (Haacke 2004)."""
    return 1 - phase_rad.clamp(min=0) / torch.pi


def mask_change(before_rad: torch.Tensor, after_rad: torch.Tensor, power: int) -> torch.Tensor:
    """Factor on a masked magnitude when its filtered phase changes, at most `BRIGHTEST`.

    The vendor's mask is not known exactly: lifting it must not make a vein shine.
    """
    change = (phase_mask(after_rad) / phase_mask(before_rad).clamp(min=1e-3)) ** power
    return change.clamp(max=BRIGHTEST)


def _coil(image: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Smooth receive sensitivity and phase: a random quadratic over the field of view."""
    axes = [torch.linspace(-1, 1, n, device=image.device) for n in image.shape]
    grid = (axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :])
    shading = torch.zeros(image.shape, device=image.device)
    phase = torch.zeros(image.shape, device=image.device) + float(random.uniform(-np.pi, np.pi))
    for axis in grid:
        shading = shading + float(random.normal(0, 0.12)) * axis + float(random.uniform(-0.05, 0.35)) * axis**2
        phase = phase + float(random.normal(0, 1.2)) * axis + float(random.normal(0, 0.8)) * axis**2
    return torch.polar(torch.exp(shading), phase)


def _resize_spectrum(spectrum: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Crop or zero-fill the first two axes of an unshifted spectrum, around its center."""
    for axis in (0, 1):
        have, want = spectrum.shape[axis], size[axis]
        keep = min(have, want)
        positive, negative = (keep + 1) // 2, keep // 2
        parts = [spectrum.narrow(axis, 0, positive), spectrum.narrow(axis, have - negative, negative)]
        if want > have:
            shape = list(spectrum.shape)
            shape[axis] = want - have
            parts.insert(1, spectrum.new_zeros(shape))
        spectrum = torch.cat(parts, dim=axis)
    return spectrum
