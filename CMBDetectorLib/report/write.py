"""The folder of a result: written whole beside its place, then moved into it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from CMBDetectorLib.errors import OutputError
from CMBDetectorLib.interruption import cleared_away
from CMBDetectorLib.output_folder import refuse_file, said_plainly
from CMBDetectorLib.report.markups import write_markups
from CMBDetectorLib.report.picture import phase_window, swi_window
from CMBDetectorLib.report.record import write_record
from CMBDetectorLib.report.scene_file import write_scene
from CMBDetectorLib.report.segmentation import write_segmentation
from CMBDetectorLib.report.summary import summary_lines
from CMBDetectorLib.report.table import write_table
from CMBDetectorLib.result import Result
from CMBDetectorLib.volume import is_unicode, write_volume

Progress = Callable[[str, float, str], None]

IMAGES = {"SWI": "swi.nii.gz", "phase": "phase_filtered.nii.gz"}
FILES = (
    "candidates.csv",
    "candidates.json",
    "candidates.mrk.json",
    "regions.nii.gz",
    "regions.seg.nrrd",
    "overview.png",
    "summary.txt",
    "scene.mrml",
    *IMAGES.values(),
)
NEEDED_MB = 150  # a large case with its images
DESKTOP_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}  # left behind by file browsers


def check_folder(out: Path, *, overwrite: bool = False, free_mb: float | None = None) -> None:
    """Raise `OutputError` unless a result could go to `out`. Cheap: ask before the search, not after it.

    An empty folder is free. With `overwrite` an earlier result is, too, but never a folder that holds other files.
    `free_mb` is the space on its disk, 10^6 bytes; measured when not given.
    """
    with said_plainly(out):
        found = {entry.name for entry in out.iterdir()} - DESKTOP_FILES if out.is_dir() else set()
        parent = next((folder for folder in out.absolute().parents if folder.is_dir()), out)
    if not is_unicode(out.absolute()):
        raise OutputError(f"{out.absolute()} has a name that is not Unicode (UTF-8); choose another folder.")
    refuse_file(out)
    if os.path.ismount(out):
        raise OutputError(f"{out} is the root of a drive; give a folder inside it, such as {out / 'result'}.")
    if Path.cwd().is_relative_to(out.resolve()):
        raise OutputError(f"{out} is the folder you work in; give the name of a folder inside it, such as result.")
    if strangers := sorted(found - set(FILES)):
        raise OutputError(f"{out} holds files that are not a result ({strangers[0]}); choose another folder.")
    if found and not overwrite:
        raise OutputError(f"{out} holds an earlier result; choose another folder or ask to overwrite it.")
    try:  # trying is the only sure test: permission bits say little on network drives, on Windows and to root
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as problem:
        reason = problem.strerror or "not allowed"
        raise OutputError(f"Nothing can be written in {parent} ({reason}); choose a folder of your own.") from None
    free = shutil.disk_usage(parent).free / 1e6 if free_mb is None else free_mb
    if free < NEEDED_MB:
        raise OutputError(f"The disk of {out} has {free:.0f} MB free, {NEEDED_MB} MB are needed. Make space on it.")


def write_result(
    result: Result, out: Path, progress: Progress | None = None, *, overwrite: bool = False, with_images: bool = False
) -> Path:
    """Write all files of a result into the folder `out`: all of them or, on any failure, none.

    Parameters
    ----------
    result : Result
        What to write; not changed.
    out : Path
        The folder; made with its parents where missing.
    progress : callable, optional
        Called as ``progress("report", fraction, message)``; may raise `Cancelled`.
    overwrite : bool
        Replace an earlier result. It stays whole until the new one is complete.
    with_images : bool
        Also write SWI and phase as they were searched into the folder and show them in ``scene.mrml``.

    Returns
    -------
    Path
        `out`, without symbolic links.

    Raises
    ------
    OutputError
        When the folder is taken, or cannot be written for want of permission or space.
    """
    check_folder(out, overwrite=overwrite)
    out = out.resolve()
    draft, old = (beside(out, f"{kind}-{uuid.uuid4().hex[:8]}") for kind in ("new", "old"))
    with said_plainly(out), folders_above(out), cleared_away(partial(_tidy, draft, old, out)):
        draft.mkdir()
        _write_files(result, draft, progress or (lambda *_: None), with_images)
        with _moving:
            if out.exists():
                out.rename(old)
            draft.rename(out)
    return out


def beside(out: Path, kind: str) -> Path:
    """Give a hidden place beside `out`, so that moving from there is one step that cannot stop halfway.

    The name is short enough for every file system, however long that of `out` is.
    """
    return out.with_name(f".{out.name[:40]}.{hashlib.sha256(os.fsencode(out.name)).hexdigest()[:8]}.{kind}")


@contextmanager
def folders_above(out: Path) -> Iterator[None]:
    """Make the folders above `out`; afterwards, those that were made and stayed empty go again."""
    made = [folder for folder in out.parents if not folder.exists()]

    def remove() -> None:
        for folder in made:
            with suppress(OSError):  # not empty: the result is in it
                folder.rmdir()

    with cleared_away(remove):
        out.parent.mkdir(parents=True, exist_ok=True)
        yield


_moving = threading.RLock()  # between the two renames a result is in neither place


def _tidy(draft: Path, old: Path, out: Path) -> None:
    """Clear away what a write left that stopped halfway; after one that did not, only the earlier result."""
    with _moving:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_files(result: Result, folder: Path, progress: Progress, with_images: bool) -> None:
    from CMBDetectorLib.report.overview import write_overview  # brings Pillow and scikit-image, which Slicer lacks

    images = {name: volume for name, volume in (("SWI", result.swi), ("phase", result.phase)) if volume}
    windows = {"SWI": swi_window(result.swi, result.regions)}
    if result.phase:
        windows["phase"] = phase_window(result.phase, result.regions)
    shown = {name: IMAGES[name] for name in images} if with_images else {}
    steps: list[tuple[str, Callable[[Path, Callable[[float], None]], None]]] = [
        ("candidates.csv", lambda path, _: write_table(result, path)),
        ("candidates.json", lambda path, _: write_record(result, path)),
        ("candidates.mrk.json", lambda path, _: write_markups(result, path)),
        ("summary.txt", lambda path, _: _write_summary(result, path)),
        ("regions.nii.gz", lambda path, _: write_volume(result.regions, path)),
        ("regions.seg.nrrd", lambda path, _: write_segmentation(result.regions, path)),
        ("overview.png", lambda path, tell: write_overview(result, path, tell)),
        ("scene.mrml", lambda path, _: write_scene(result, path, images=shown, window=windows)),
        *((file, lambda path, _, name=name: write_volume(images[name], path)) for name, file in shown.items()),
    ]
    for done, (name, write) in enumerate(steps):

        def tell(fraction: float, done: int = done, name: str = name) -> None:
            progress("report", (done + fraction) / len(steps), f"Writing {name}")

        tell(0.0)
        write(folder / name, tell)
    progress("report", 1.0, "Results complete")


def _write_summary(result: Result, path: Path) -> None:
    path.write_text("\n".join(summary_lines(result)) + "\n", encoding="utf-8")
