"""The place of a result, reserved for one run: other runs are kept away, and what a killed one left is cleared away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from CMBDetectorLib.errors import OutputError
from CMBDetectorLib.interruption import cleared_away
from CMBDetectorLib.output_folder import said_plainly
from CMBDetectorLib.report.write import beside, folders_above


@contextmanager
def reserved(out: Path) -> Iterator[None]:
    """Keep other runs away from the folder `out`; the folders above are made, and go again where no result came.

    The system frees the place of a process that ends in any way. Where a lock cannot be had, nothing is reserved; a
    result is still moved into its place whole.

    Raises
    ------
    OutputError
        Another run has reserved it, or the folders above cannot be made.
    """
    out = out.resolve()
    path = beside(out, "lock")
    lock = FileLock(path, thread_local=False)  # `abandon` frees it from another thread
    with ExitStack() as stack:
        with said_plainly(out):
            stack.enter_context(folders_above(out))
        stack.enter_context(cleared_away(lambda: _free(lock, path)))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise OutputError(f"Another search writes to {out}. Wait for its end, or choose another folder.") from None
        except (OSError, NotImplementedError):
            pass
        else:
            with suppress(OSError):  # a file browser may hold one open; it is in nobody's way
                _clear_leftovers(out)
        yield


def _free(lock: FileLock, path: Path) -> None:
    if not lock.is_locked:  # it is another run's
        return
    with suppress(OSError):
        if os.name != "nt":  # while it is held, so that nobody else's is removed
            path.unlink()
        lock.release()  # on Windows this removes it


def _clear_leftovers(out: Path) -> None:
    """Remove drafts of killed runs, and put back the earlier result that one had just moved aside."""
    for left in out.parent.iterdir():
        if left.name.startswith(beside(out, "old-").name) and (not out.exists() or not any(out.iterdir())):
            with suppress(FileNotFoundError):
                out.rmdir()
            left.rename(out)
        elif left.name.startswith((beside(out, "new-").name, beside(out, "old-").name)):
            shutil.rmtree(left, ignore_errors=True)
