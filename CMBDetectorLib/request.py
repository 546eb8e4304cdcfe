"""What one run is asked to do. The command line, the worker and the window all speak this type."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from CMBDetectorLib.errors import InputError

FLOOR = 0.1  # candidates below this probability are not kept at all
DEVICES = ("auto", "cpu", "cuda")
POLARITIES = ("auto", "bright", "dark")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to search.

    Attributes
    ----------
    threshold : float or None
        Lowest probability that is reported, from `FLOOR` to below 1; None takes those in the detector's manifest,
        chosen on validation heads with phase and without.
    device : str
        ``auto`` (GPU where there is one), ``cpu`` or ``cuda``.
    polarity : str
        How paramagnetic tissue looks on the phase image: ``bright``, ``dark``, or ``auto`` (measured on veins).
    threads : int or None
        CPU threads; None takes all cores.
    force : bool
        Search an image that preflight doubts all the same.
    """

    threshold: float | None = None
    device: str = "auto"
    polarity: str = "auto"
    threads: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not FLOOR <= self.threshold < 1.0:
            raise InputError(f"The threshold is {self.threshold}; give a probability from {FLOOR} to below 1.")
        if self.device not in DEVICES:
            raise InputError(f"The device is '{self.device}'; choose one of {', '.join(DEVICES)}.")
        if self.polarity not in POLARITIES:
            raise InputError(f"The phase polarity is '{self.polarity}'; choose one of {', '.join(POLARITIES)}.")
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise InputError(f"The number of threads is {self.threads}; give 1 or more.")


@dataclass(frozen=True, kw_only=True)
class DetectionRequest:
    """The files of one case, where the results go, and how to search.

    Attributes
    ----------
    swi, phase : Path
        Image files or DICOM folders; `phase` may be None.
    out : Path
        Folder of the results.
    settings : Settings
    overwrite : bool
        Replace an earlier result in `out`.
    with_images : bool
        Copy the images into `out`, so that its scene opens anywhere.
    """

    swi: Path
    phase: Path | None
    out: Path
    settings: Settings = field(default_factory=Settings)
    overwrite: bool = False
    with_images: bool = False

    def to_json(self) -> str:
        """The request as the text of a REQUEST.json that `from_json` reads back."""
        return json.dumps(asdict(self), default=str, indent=2)

    @classmethod
    def from_json(cls, text: str) -> DetectionRequest:
        """Parse a request; raises `InputError` that names the field which is wrong."""
        try:
            fields = json.loads(text)
            settings = Settings(**fields.get("settings", {}))
            return cls(
                swi=Path(fields["swi"]),
                phase=Path(fields["phase"]) if fields.get("phase") else None,
                out=Path(fields["out"]),
                settings=settings,
                overwrite=fields.get("overwrite", False) is True,  # a text such as "false" must not overwrite
                with_images=fields.get("with_images", False) is True,
            )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
            raise InputError(f"The request is not valid: {problem}. It needs swi, phase (or null) and out.") from None
