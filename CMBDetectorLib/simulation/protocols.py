"""Acquisition protocols as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one scan is acquired and processed by the vendor.

    Attributes
    ----------
    name : str
    field_t : float
        Main field, tesla.
    echo_time_ms, repetition_time_ms : float
    flip_angle_deg : float
    acquired_mm : float
        In-plane resolution sampled in k-space, mm.
    pixel_mm : float
        In-plane pixel after zero filling, mm.
    slice_mm : float
        Slice thickness, mm.
    snr : float
        Signal-to-noise ratio of white matter in one voxel.
    paramagnetic_sign : int
        Sign of a paramagnetic shift on the stored phase image: +1 (bright) or -1 (dark).
    filter_mm : float
        Resolution of the low-pass that the phase filter removes, mm (field of view / filter size in pixels).
    filter_window : str
        Shape of that low-pass in k-space: ``hann`` or ``gaussian``.
    mask_power : int
        How often the phase mask multiplies the magnitude (Haacke: 4); 0 is the plain T2*-weighted magnitude.
    masks_air : bool
        Whether the vendor sets air to zero on both images.
    """

    name: str
    field_t: float
    echo_time_ms: float
    repetition_time_ms: float
    flip_angle_deg: float
    acquired_mm: float
    pixel_mm: float
    slice_mm: float
    snr: float = 25.0
    paramagnetic_sign: int = 1
    filter_mm: float = 3.5
    filter_window: str = "hann"
    mask_power: int = 4
    masks_air: bool = False

    @property
    def rad_per_ppm(self) -> float:
        """Phase at the echo per ppm of field shift."""
        return radians_per_ppm(self.field_t, self.echo_time_ms)


def radians_per_ppm(field_t: float, echo_time_ms: float) -> float:
    """Phase at the echo per ppm of field shift: 2 pi * 42.577 MHz/T * B0 * TE."""
    return 2 * np.pi * 42.577 * field_t * echo_time_ms * 1e-3


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(name="3T-2mm", field_t=3.0, echo_time_ms=20.0, repetition_time_ms=27.0, flip_angle_deg=15.0,
                 acquired_mm=0.5, pixel_mm=0.5, slice_mm=2.0),
        Protocol(name="3T-3mm", field_t=3.0, echo_time_ms=20.0, repetition_time_ms=28.0, flip_angle_deg=15.0,
                 acquired_mm=0.5, pixel_mm=0.5, slice_mm=3.0),
        Protocol(name="3T-opposite", field_t=3.0, echo_time_ms=25.0, repetition_time_ms=38.0, flip_angle_deg=15.0,
                 acquired_mm=0.6, pixel_mm=0.5, slice_mm=2.0, paramagnetic_sign=-1),
        Protocol(name="1.5T", field_t=1.5, echo_time_ms=40.0, repetition_time_ms=50.0, flip_angle_deg=20.0,
                 acquired_mm=0.8, pixel_mm=0.65, slice_mm=2.0, snr=18.0),
        Protocol(name="3T-compact", field_t=3.0, echo_time_ms=20.0, repetition_time_ms=27.0, flip_angle_deg=15.0,
                 acquired_mm=0.6, pixel_mm=0.6, slice_mm=2.0, masks_air=True),
    )
}  # fmt: skip


def vary(protocol: Protocol, random: np.random.Generator) -> Protocol:
    """A protocol in the range around `protocol`: what differs between hospitals that claim the same one."""
    pixel = float(np.clip(protocol.pixel_mm * random.uniform(0.85, 1.35), 0.43, 0.95))
    return replace(
        protocol,
        echo_time_ms=protocol.echo_time_ms * random.uniform(0.85, 1.2),
        repetition_time_ms=protocol.repetition_time_ms * random.uniform(0.95, 1.3),
        flip_angle_deg=protocol.flip_angle_deg * random.uniform(0.7, 1.3),
        acquired_mm=max(pixel, protocol.acquired_mm * random.uniform(0.9, 1.3)),
        pixel_mm=pixel,
        slice_mm=float(np.clip(protocol.slice_mm * random.choice([0.6, 0.75, 1.0, 1.0, 1.25]), 1.0, 3.5)),
        snr=protocol.snr * random.uniform(0.5, 1.6),
        paramagnetic_sign=int(random.choice([-1, 1])),
        filter_mm=float(random.uniform(2.0, 7.0)),
        filter_window=str(random.choice(["hann", "gaussian"])),
        mask_power=int(random.choice([0, 2, 3, 4, 4, 4, 4])),
        masks_air=bool(random.random() < 0.3),
    )
