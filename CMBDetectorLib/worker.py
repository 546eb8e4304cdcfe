"""One case in a child process: ``python -m CMBDetectorLib.worker REQUEST.json``.

Every line on stdout is one event, a JSON object with a field ``event``:

=============  ====================================================================
``started``    ``process_id``, which a launcher in between would hide
``progress``   ``stage``, ``fraction`` of the whole run (0-1), ``message``
``result``     ``out`` (the folder), ``reported`` and ``counted`` (numbers), ``notices``
``error``      ``message`` (for the user), ``exit_code``
``cancelled``  the run stopped as asked; nothing was written
=============  ====================================================================

Any line on stdin, or its end, cancels: within 2 seconds the process is gone and has left no file behind. So a worker
never outlives the window that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from CMBDetectorLib.encoding import restart_in_utf8
from CMBDetectorLib.errors import (
    Cancelled,
    CMBDetectorError,
    InputError,
    want_of_memory,
)
from CMBDetectorLib.interruption import abandon, raise_on_termination
from CMBDetectorLib.report.write import check_folder, write_result
from CMBDetectorLib.request import DetectionRequest
from CMBDetectorLib.stages import overall

if TYPE_CHECKING:
    from CMBDetectorLib.result import Result

Progress = Callable[[str, float, str], None]

GRACE_S = 1.0  # how long a cancelled run may take to stop by itself, between two calls of its progress


def perform(request: DetectionRequest, progress: Progress) -> Result:
    """Do what a request asks, from checking the folder to writing it; the one way to run a case.

    Raises
    ------
    CMBDetectorError
        With a message for the user. Nothing is half-written.
    """
    check_folder(request.out, overwrite=request.overwrite)
    progress("read", 0.0, "Starting")
    try:
        from CMBDetectorLib.report.reservation import reserved

        with reserved(request.out):
            check_folder(request.out, overwrite=request.overwrite)  # another run may just have ended
            from CMBDetectorLib.pipeline import run  # brings torch, which takes seconds to load

            result = run(request, progress)
            write_result(result, request.out, progress, overwrite=request.overwrite, with_images=request.with_images)
    except (MemoryError, RuntimeError, ImportError, OSError) as problem:
        if known := want_of_memory(problem, request.swi):
            raise known from None
        raise
    return result


def result_event(request: DetectionRequest, result: Result) -> dict[str, Any]:
    """Make the event that tells where the result is and how much it holds."""
    return {
        "event": "result",
        "out": str(request.out),
        "reported": len(result.reported),
        "counted": len(result.counted),
        "notices": list(result.notices),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the request file given as the only argument; return the exit code."""
    if arguments is None:
        restart_in_utf8()
        arguments = sys.argv[1:]
    raise_on_termination()
    asked, finished = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(asked, finished), daemon=True).start()

    def progress(stage: str, fraction: float, message: str) -> None:
        if asked.is_set():
            raise Cancelled("Cancelled. Nothing was written.")
        _say(event="progress", stage=stage, fraction=round(overall(stage, fraction), 4), message=message)

    _say(event="started", process_id=os.getpid())
    try:
        request = _request(arguments)
        result = perform(request, progress)
        finished.set()
    except (Cancelled, KeyboardInterrupt):
        _say(event="cancelled", message="Cancelled. Nothing was written.")
        return Cancelled.exit_code
    except CMBDetectorError as problem:
        _say(event="error", message=str(problem), exit_code=problem.exit_code)
        return problem.exit_code
    except Exception as defect:  # the parent sees one plain line; the traceback goes to stderr for a bug report
        _say(event="error", message=f"Unexpected problem: {defect!r}. Please report it.", exit_code=70)
        raise
    _say(**result_event(request, result))
    return 0


def _request(arguments: list[str]) -> DetectionRequest:
    if len(arguments) != 1:
        raise InputError("Give one request file: python -m CMBDetectorLib.worker REQUEST.json")
    try:
        text = Path(arguments[0]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"The request {arguments[0]} cannot be read: {problem}.") from None
    return DetectionRequest.from_json(text)


def _listen(asked: threading.Event, finished: threading.Event) -> None:
    """Wait for a line or the end of stdin; then ask the run to stop, and end the process if it does not."""
    with suppress(OSError):  # closed before it began
        os.read(0, 1)  # not through sys.stdin, whose lock would be held when the interpreter shuts down
    asked.set()
    if finished.wait(GRACE_S):
        return
    try:
        abandon()
        _say(event="cancelled", message="Cancelled. Nothing was written.")
    finally:
        os._exit(Cancelled.exit_code)


def _say(**event: Any) -> None:
    """Write one event; a parent that is gone, or a full disk, is no reason to fail: `_listen` ends the run."""
    try:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    sys.exit(main())
