"""A folder that a command writes to: whether it can be one, told in plain words and before the work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from CMBDetectorLib.errors import OutputError


def make_folder(out: Path) -> None:
    """Make a folder; `OutputError` where it, or a file in it, cannot be made. Cheap: do it before the work."""
    refuse_file(out)
    with said_plainly(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


def refuse_file(out: Path) -> None:
    """Raise `OutputError` where a file, or a link to nothing, takes the place of a folder or of one above it."""
    with said_plainly(out):
        place = out.absolute()
    there = next((path for path in (place, *place.parents) if os.path.lexists(path)), None)
    if there is None or os.path.isdir(there):
        return
    if there == place:
        raise OutputError(f"{out} is a file; give the name of a folder for the results.")
    raise OutputError(f"{there} is a file, so {out} cannot be a folder; choose another one.")


@contextmanager
def said_plainly(out: Path) -> Iterator[None]:
    """Turn whatever keeps the files from being written into one `OutputError` that names the user's folder."""
    try:
        yield
    except (OSError, OutputError) as problem:
        reason = getattr(problem, "strerror", None) or "a file came out incomplete"
        raise OutputError(
            f"Cannot write the results to {out}: {reason}. Check the free space and permission, or choose another "
            "folder."
        ) from problem
