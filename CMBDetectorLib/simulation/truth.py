"""``truth.json``: what a case is known to show, read with plain words for what is wrong with it.

Others' simulators and hands write it, too, so each reader asks only for what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.json_file import read_json
from CMBDetectorLib.regions import BY_LABEL, Region, Side

SOURCES = ("lesions", "faint", "mimics")
MOST = 1e6  # no number in a truth is larger
REMEDY = "Correct it, make this case again, or take its folder away."


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MOST < value < MOST


# How what is said of a source is known to be right. A source in no region has "" and 0.
RIGHT: dict[str, Callable[[Any], bool]] = {
    "center_ras_mm": lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)),
    "kind": lambda value: isinstance(value, str),
    "diameter_mm": lambda value: _is_number(value) and value >= 0,
    "contrast": lambda value: _is_number(value) and 0 <= value < 1.01,
    "region": lambda value: value in ["", *(region.value for region in Region)],
    "sub_region": lambda value: _is_number(value) and value in [0, *BY_LABEL],
    "side": lambda value: value in [side.value for side in Side],
}


class Truth(dict[str, Any]):
    """Content of a ``truth.json``; positions in it are RAS, mm.

    Attributes
    ----------
    file : Path
    """

    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.file = file

    def __missing__(self, name: str) -> Any:
        raise InputError(f"{self.file} lacks '{name}'. {REMEDY}")

    def require_text(self, name: str) -> None:
        """Raise `InputError` unless this is there and is text."""
        if not isinstance(self[name], str):
            raise InputError(f"{self.file} has {self[name]!r} as '{name}', which must be text. {REMEDY}")

    def require_numbers(self, *names: str) -> None:
        """Raise `InputError` unless these are there and are numbers."""
        for name in names:
            if not _is_number(self[name]):
                raise InputError(f"{self.file} has {self[name]!r} as '{name}', which must be a number. {REMEDY}")

    def require(self, kind: str, *names: str) -> None:
        """Raise `InputError` unless every source of a kind says these of itself, in the right way."""
        if not (isinstance(self[kind], list) and all(isinstance(source, dict) for source in self[kind])):
            raise InputError(f"{self.file} holds no list of sources as '{kind}'. {REMEDY}")
        for n, source in enumerate(self[kind], start=1):
            for name in names:
                if name not in source:
                    raise InputError(f"{self.file} lacks '{name}' of {kind} {n}. {REMEDY}")
                # Only what is too faint to see may have no extent.
                if not RIGHT[name](source[name]) or (kind == "lesions" and name == "diameter_mm" and not source[name]):
                    raise InputError(f"{self.file} has {source[name]!r} as '{name}' of {kind} {n}. {REMEDY}")


def truth_of(folder: Path) -> Truth:
    """Read the truth of the case in a folder.

    Raises
    ------
    InputError
        It cannot be opened, is not JSON, or does not say which head it is and where its sources lie; later, when a key
        is asked for that it lacks.
    """
    file = folder / "truth.json"
    truth = Truth(file, read_json(file))
    truth.require_text("head")
    for kind in SOURCES:
        truth.require(kind, "center_ras_mm")
    return truth
