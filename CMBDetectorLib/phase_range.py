"""The numbers in which scanners store phase, read as radians. Without torch, so that Slicer can check a pair alone."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.volume import Volume


def to_radians(phase: Volume) -> tuple[Volume, str]:
    """Phase in rad, from whatever numbers the scanner stored.

    Returns
    -------
    Volume
        float32, within [-pi, pi].
    str
        What was assumed, in a sentence.

    Raises
    ------
    InputError
        The image is constant or its range is none that scanners use for phase.
    """
    values = np.asarray(phase.array, dtype=np.float32)
    finite = np.isfinite(values)
    numbers = values if finite.all() else values[finite]
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    range_ = f"runs from {low:.6g} to {high:.6g}"
    found = f"The phase of {phase.source or 'this image'} {range_}"
    if low == high:
        raise InputError(f"{found}: it is constant. Choose the phase image that belongs to the SWI.")
    some = numbers.ravel(order="K")[:: max(1, numbers.size // 100_000)]
    known = known_scale(low, high, whole=bool(np.all(some % 1 == 0)))
    if known is None:
        raise InputError(
            f"{found}, which is no range known for phase. Give wrapped phase in radians, degrees, or the scanner's "
            "integers (such as 0 to 4095)."
        )
    zero, pi, name = known
    radians = (values - np.float32(zero)) * np.float32(np.pi / pi)
    radians[~finite] = 0
    beyond = np.abs(radians) > np.float32(np.pi)
    radians[beyond] = (radians[beyond] + np.pi) % (2 * np.pi) - np.pi
    image = PurePath(phase.source).name if phase.source else "this image"  # pictures go where paths are not to go
    return phase.with_array(radians), f"The phase of {image} {range_}; it was read as {name}."


def known_scale(low: float, high: float, whole: bool) -> tuple[float, float, str] | None:
    """Value that means 0 rad, step that means pi, and a name; None when the range is not known."""
    peak = max(-low, high)
    symmetric = low < 0 and min(-low, high) > 0.98 * peak
    if whole and peak > 7:
        return _integer_scale(low, high, peak)
    if low >= 0 and 1.02 * np.pi < high <= 1.01 * 2 * np.pi:
        return np.pi, np.pi, "radians from 0 to 2 pi"
    if low >= 0 and 350 < high <= 361:
        return 180.0, 180.0, "degrees from 0 to 360"
    if symmetric and 175 < peak <= 181:
        return 0.0, 180.0, "degrees from -180 to 180"
    if symmetric and 3110 < peak <= 3160:
        return 0.0, 1000 * np.pi, "thousandths of a radian"
    if symmetric and abs(peak - 1) < 1e-3:
        return 0.0, peak, "-1 to 1 for -pi to pi"
    if low >= 0 and 0.99 < high <= 1.0:
        return 0.5, 0.5, "0 to 1 for -pi to pi"
    if low < 0 and 0.2 < peak <= 1.01 * np.pi:
        return 0.0, np.pi, "radians"
    if symmetric and peak < 0.2:
        return 0.0, peak, "a scaled copy of -pi to pi"
    power = 2.0 ** np.ceil(np.log2(peak))
    if peak > 64 and min(abs(peak - power), abs(peak - power + 1)) < 0.002 * power:  # integers, interpolated
        return _integer_scale(low, high, peak)
    return None


def _integer_scale(low: float, high: float, peak: float) -> tuple[float, float, str] | None:
    """Scale of whole numbers: the next power of two is the range."""
    if low < 0 and 3130 < peak <= 3150:
        return 0.0, 1000 * np.pi, "thousandths of a radian"
    if low < 0 and 178 <= peak <= 180:
        return 0.0, 180.0, "degrees from -180 to 180"
    if low >= 0 and 358 <= high <= 360:
        return 180.0, 180.0, "degrees from 0 to 360"
    power = 2.0 ** np.ceil(np.log2(peak))
    if not 128 <= power <= 2**16:
        return None
    if low < 0:
        return 0.0, power, f"{-power:.0f} to {power:.0f} for -pi to pi"
    return power / 2, power / 2, f"0 to {power:.0f} for -pi to pi"
