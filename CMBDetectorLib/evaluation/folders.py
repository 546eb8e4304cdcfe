"""Folders of cases with truth that an evaluation takes, one after another, and the one that it writes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from CMBDetectorLib.errors import InputError, OutOfMemoryError, OutputError, want_of_memory
from CMBDetectorLib.output_folder import make_folder
from CMBDetectorLib.regions import BY_LABEL
from CMBDetectorLib.simulation.truth import truth_of
from CMBDetectorLib.volume import Volume, read_volume

NEEDED = ("swi.nii.gz", "mars.nii.gz")  # beside the truth
PHASE = "phase.nii.gz"
WITH_PHASE = (*NEEDED, PHASE)
Taken = TypeVar("Taken")


def case_folders(*cases_dirs: Path, needed: Sequence[str] = NEEDED) -> dict[str, Path]:
    """Folders of cases with truth by name, such as ``test-case_0003`` for ``test/case_0003``.

    Where two of the folders given have one name, that of the folder above stands before it.

    Raises
    ------
    InputError
        A folder holds no cases or is given twice, a case lacks a file that is `needed` or its truth cannot be read, or
        two cases have one name.
    """
    places = [Path(cases_dir).resolve() for cases_dir in cases_dirs]
    names = Counter(place.name for place in places)
    folders: dict[str, Path] = {}
    for place in places:
        if places.count(place) > 1:
            raise InputError(f"{place} is given twice. Give every folder of cases once.")
        found = sorted(path.parent for path in place.glob("*/truth.json"))
        if not found:
            raise InputError(f"{place} holds no cases; it needs folders with truth.json, {', '.join(needed)}.")
        prefix = place.name if names[place.name] == 1 else f"{place.parent.name}-{place.name}"
        for folder in found:
            if missing := [name for name in needed if not (folder / name).is_file()]:
                raise InputError(f"{folder} lacks {missing[0]}; a case needs truth.json, {', '.join(needed)}.")
            truth = truth_of(folder)
            truth.require_text("protocol")
            truth.require("lesions", "diameter_mm", "contrast", "region", "sub_region", "side")
            truth.require("mimics", "kind")
            name = f"{prefix}-{folder.name}"
            if name in folders:
                raise InputError(f"There are two cases {name}: {folders[name]} and {folder}. Rename the folder of one.")
            folders[name] = folder
    return folders


def each_case(
    folders: dict[str, Path], take: Callable[[str, Path], Taken], progress: Callable[[float, str], None]
) -> tuple[list[Taken], dict[str, str]]:
    """Take every case; give what came of it and, by name, why cases were left out.

    One scan that cannot be read, or is too large for the memory, does not lose the hours spent on the others.

    Raises
    ------
    InputError
        No case could be taken.
    """
    taken: list[Taken] = []
    left_out: dict[str, str] = {}
    for n, (name, folder) in enumerate(folders.items()):
        progress(n / len(folders), name)
        try:
            taken.append(take(name, folder))
        except InputError as problem:
            left_out[name] = str(problem)
        except (OutOfMemoryError, MemoryError, RuntimeError, ImportError, OSError) as problem:
            known = want_of_memory(problem, folder / NEEDED[0])
            if known is None:
                raise
            left_out[name] = str(known)
            del known  # it holds on to the volumes of this case
    if not taken:
        name, why = next(iter(left_out.items()))
        raise InputError(f"No case could be evaluated. The first, {name}: {why}")
    return taken, left_out


def true_regions(folder: Path, swi: Volume) -> Volume:
    """MARS regions of a case; raises `InputError` where they have other voxels than its SWI, or other labels."""
    path = folder / "mars.nii.gz"
    mars = read_volume(path)
    if mars.array.shape != swi.array.shape:
        raise InputError(f"{path} has {mars.array.shape} voxels, the SWI {swi.array.shape}; they must be the same.")
    if strange := set(np.unique(mars.array)) - {0, *BY_LABEL}:
        raise InputError(f"{path} has the label {min(strange):g}; MARS has 0 (none) to {max(BY_LABEL)}.")
    return mars


def prepare_folder(out: Path, result: str, overwrite: bool) -> bool:
    """Make the folder that an evaluation goes to and tell whether an earlier one is to be replaced there.

    `OutputError` where it cannot go there.
    """
    make_folder(out)
    is_there = (out / result).exists()
    if is_there and not overwrite:
        raise OutputError(f"{out / result} is there already. Choose another folder, or replace it with --overwrite.")
    return is_there
