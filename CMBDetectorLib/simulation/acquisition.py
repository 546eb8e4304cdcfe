"""From a complex image to what the scanner stores: k-space, noise, coil, and the vendor's SWI and phase."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from CMBDetectorLib.simulation.protocols import Protocol


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images of one scan, shape (R, A, slices), on the reconstructed pixel grid.

    Attributes
    ----------
    swi : Tensor
        Phase-masked magnitude, arbitrary units.
    phase_rad : Tensor
        With the vendor's sign, high-pass filtered or, for `raw_phase`, wrapped as acquired.
    """

    swi: torch.Tensor
    phase_rad: torch.Tensor


def acquire(
    image: torch.Tensor,
    fine_mm: float,
    protocol: Protocol,
    random: np.random.Generator,
    noise: torch.Generator,
    white_matter: float,
    raw_phase: bool = False,
) -> StoredImages:
    """Sample, disturb and reconstruct a complex image slice by slice.

    Parameters
    ----------
    image : complex Tensor, shape (R, A, slices)
        Averaged through the slice, on a fine in-plane grid of `fine_mm`.
    white_matter : float
        Signal that `protocol.snr` refers to.
    """
    size = image.shape[:2]
    fov_mm = [n * fine_mm for n in size]
    acquired = [min(n, 2 * round(f / protocol.acquired_mm / 2)) for n, f in zip(size, fov_mm, strict=True)]
    stored = [2 * round(f / protocol.pixel_mm / 2) for f in fov_mm]
    image = image * _coil(image, random)
    spectrum = _resize_spectrum(torch.fft.fft2(image, dim=(0, 1)), acquired)
    sigma = white_matter / protocol.snr * (size[0] * size[1]) / (acquired[0] * acquired[1]) ** 0.5
    disturbance = torch.randn((*spectrum.shape, 2), generator=noise, device=image.device)
    spectrum = spectrum + sigma * torch.view_as_complex(disturbance)
    if random.random() < 0.15:  # the head moved during part of the scan: phase-encode lines are inconsistent
        lines = spectrum.shape[1]
        shift = np.where(random.random(lines) < 0.08, random.normal(0, 0.25, lines), 0.0)
        shift[[0, 1, 2, -1, -2]] = 0.0
        spectrum = spectrum * torch.polar(torch.ones(lines), torch.from_numpy(shift).float()).to(image)[None, :, None]
    spectrum = _resize_spectrum(spectrum, stored)
    image = torch.fft.ifft2(spectrum, dim=(0, 1)) * (stored[0] * stored[1] / (size[0] * size[1]))
    # ifft2 divides by the stored size; the factor returns to the units of the fine image
    filtered = homodyne(image, protocol.filter_mm, [f / n for f, n in zip(fov_mm, stored, strict=True)])
    swi = image.abs() * phase_mask(filtered) ** protocol.mask_power
    phase = image.angle() if raw_phase else filtered
    if protocol.masks_air:
        around = F.avg_pool2d(image.abs().permute(2, 0, 1)[None], 5, stride=1, padding=2)[0].permute(1, 2, 0)
        head = around > 3 * white_matter / protocol.snr  # noise alone averages 1.25 standard deviations
        swi, phase = swi * head, phase * head
    return StoredImages(swi, phase * protocol.paramagnetic_sign)


def homodyne(image: torch.Tensor, resolution_mm: float, pixel_mm: list[float]) -> torch.Tensor:
    """High-pass filtered phase, rad: the phase against that of the image low-passed by a Hann window in k-space.

    `resolution_mm` is the pixel size that the window's width corresponds to (Wang et al. 2000).
    """
    windows = []
    for n, mm in zip(image.shape[:2], pixel_mm, strict=True):
        k = torch.fft.fftfreq(n, mm, device=image.device)
        windows.append(torch.where(k.abs() * 2 * resolution_mm < 1, torch.cos(torch.pi * k * resolution_mm) ** 2, 0.0))
    spectrum = torch.fft.fft2(image, dim=(0, 1)) * windows[0][:, None, None] * windows[1][None, :, None]
    low = torch.fft.ifft2(spectrum, dim=(0, 1))
    return (image * low.conj()).angle()


def phase_mask(phase_rad: torch.Tensor) -> torch.Tensor:
    """Weight that darkens paramagnetic (positive) phase: 1 up to zero, falling linearly to 0 at pi (Haacke 2004)."""
    return 1 - phase_rad.clamp(min=0) / torch.pi


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
