"""Field shift of a susceptibility distribution: convolution with the unit dipole (Marques & Bowtell 2005)."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def dipole_kernel(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    b0_direction: Sequence[float] = (0.0, 0.0, 1.0),
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Unit dipole in k-space, ``1/3 - (k.b)^2 / k^2``, for the half spectrum of `torch.fft.rfftn`.

    Parameters
    ----------
    shape : sequence of int
        Grid (R, A, S) of the real-space map.
    spacing_mm : sequence of float
        Voxel size, mm.
    b0_direction : sequence of float
        Unit vector of B0 in the grid's axes; not (0, 0, 1) for oblique scans.

    Returns
    -------
    Tensor, shape (R, A, S // 2 + 1)
        Zero at k = 0: the mean field is unknown and irrelevant.
    """
    k = [torch.fft.fftfreq(n, d, device=device) for n, d in zip(shape[:2], spacing_mm[:2], strict=True)]
    k.append(torch.fft.rfftfreq(shape[2], spacing_mm[2], device=device))
    kr, ka, ks = k[0][:, None, None], k[1][None, :, None], k[2][None, None, :]
    squared = kr**2 + ka**2 + ks**2
    along = kr * b0_direction[0] + ka * b0_direction[1] + ks * b0_direction[2]
    squared[0, 0, 0] = 1.0
    kernel = 1.0 / 3.0 - along**2 / squared
    kernel[0, 0, 0] = 0.0
    return kernel


def field_shift_ppm(
    chi_ppm: torch.Tensor,
    spacing_mm: Sequence[float],
    b0_direction: Sequence[float] = (0.0, 0.0, 1.0),
    padding: int = 0,
) -> torch.Tensor:
    """Relative field shift dB/B0 in ppm of a susceptibility map in ppm, same shape (R, A, S).

    `padding` voxels of zeros on the far side of each axis keep the periodic images of the transform away.
    """
    shape = [fast_length(n + padding) for n in chi_ppm.shape]
    spectrum = torch.fft.rfftn(chi_ppm, s=shape)
    spectrum *= dipole_kernel(shape, spacing_mm, b0_direction, chi_ppm.device)
    r, a, s = chi_ppm.shape
    return torch.fft.irfftn(spectrum, s=shape)[:r, :a, :s]


def fast_length(n: int) -> int:
    """Smallest even length >= n with no prime factor above 5, which Fourier transforms handle fast."""
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and n % 2 == 0:
            return n
        n += 1
