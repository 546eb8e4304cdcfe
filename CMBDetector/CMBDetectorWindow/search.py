"""One search in a child process: started, watched and stopped without ever blocking the window."""

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import qt
from slicer.i18n import tr as _

from CMBDetectorWindow.words import translated

STOP_MS = 1300  # how long a cancelled worker may take before it is killed; all in all it is gone within 2 s
GONE_MS = 300  # how long a killed one may hold up the window; it needs far less
SURE_AFTER_S = 3.0  # before, a time left would be a guess


@dataclass(frozen=True)
class Outcome:
    """How a search ended: "result", "error", "cancelled" or "killed", and what to tell the user."""

    kind: str
    message: str = ""
    exitCode: int = 0
    details: str = ""
    event: dict = field(default_factory=dict)


def pythonExecutable():
    """PythonSlicer in Slicer, else the Python that runs."""
    found = shutil.which("PythonSlicer") or sys.executable or ""
    if not Path(found).stem.lower().startswith("python"):  # Slicer itself would open a second window
        raise RuntimeError(_("PythonSlicer, a part of Slicer, cannot be found. Install Slicer again."))
    return found


class Search:
    """Runs ``python -m CMBDetectorLib.worker`` and tells how it goes.

    Parameters
    ----------
    onProgress : callable
        Called as ``onProgress(fraction, message)`` with the share of the run that is done (0-1).
    onEnd : callable
        Called once with an `Outcome`, unless the search was abandoned.

    Examples
    --------
    >>> search = Search(showProgress, showOutcome)  # doctest: +SKIP
    >>> search.start(libraryFolder, requestFile)  # doctest: +SKIP
    >>> search.cancel()  # doctest: +SKIP
    """

    def __init__(self, onProgress, onEnd):
        self._onProgress, self._onEnd = onProgress, onEnd
        self._process = None
        self._lastProcess = None  # kept: Qt must not lose a process while that says that it has ended
        self._deadline = qt.QTimer()
        self._deadline.setSingleShot(True)
        self._deadline.setInterval(STOP_MS)
        self._deadline.connect("timeout()", self._kill)
        self._begin()

    def _begin(self):
        self._worker = None  # process id behind the launcher
        self._last = {}
        self._unread = b""
        self._errors = b""
        self._cancelled = False
        self._started, self._fraction = time.monotonic(), 0.0
        self._endExpected = None  # as the last progress suggests

    @property
    def isRunning(self):
        return self._process is not None

    @property
    def workerProcessId(self):
        """Of the process that does the work, not of a launcher before it; None before it has said so."""
        return self._worker

    def start(self, libraryFolder, requestFile):
        """Start the worker on a request file; the library is found from its folder."""
        self._begin()
        program = pythonExecutable()
        process = self._process = qt.QProcess()
        process.setWorkingDirectory(str(libraryFolder))
        for signature, receiver in self._receivers():
            process.connect(signature, receiver)
        process.start(program, ["-m", "CMBDetectorLib.worker", str(requestFile)])

    def cancel(self):
        """Ask the worker to stop, and see to it: `onEnd` is called within 2 s, whatever it does."""
        if self._process is None or self._cancelled:
            return
        self._cancelled = True
        self._process.closeWriteChannel()
        self._deadline.start()

    def abandon(self):
        """Stop at once and tell nobody: the window or the scene goes away."""
        process, self._process = self._process, None
        if process is None:
            return
        self._lastProcess = process
        self._deadline.stop()
        for signature, receiver in self._receivers():
            process.disconnect(signature, receiver)
        process.closeWriteChannel()
        self._killTree(process)
        process.waitForFinished(GONE_MS)

    def timeLeft(self):
        """Seconds left, as the share done so far suggests; None while that would be a guess."""
        if self._cancelled or self._endExpected is None or time.monotonic() - self._started < SURE_AFTER_S:
            return None
        left = self._endExpected - time.monotonic()
        return left if left > 0 else None  # a step takes longer than expected

    def _receivers(self):
        return (
            ("readyReadStandardOutput()", self._read),
            ("readyReadStandardError()", self._readErrors),
            ("finished(int,QProcess::ExitStatus)", self._finished),
            ("errorOccurred(QProcess::ProcessError)", self._failed),
        )

    def _read(self, *_unused):
        if self._process is None:
            return
        self._unread += bytes(self._process.readAllStandardOutput().data())
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a library that prints
            self._take(event)

    def _take(self, event):
        kind = event.get("event")
        if kind == "started":
            self._worker = event["process_id"]
        elif kind == "progress":
            self._expect(event["fraction"])
            if not self._cancelled:
                self._onProgress(self._fraction, translated(event["message"]))
        else:
            self._last = event

    def _expect(self, fraction):
        """Estimate the end where the share done has grown; between, the time left counts down."""
        if fraction > max(self._fraction, 0.05):
            self._endExpected = self._started + (time.monotonic() - self._started) / fraction
        self._fraction = fraction

    def _readErrors(self, *_unused):
        if self._process is not None:
            self._errors = (self._errors + bytes(self._process.readAllStandardError().data()))[-20_000:]

    def _finished(self, exitCode=0, *_unused):
        self._read()
        self._readErrors()
        self._end(self._outcome(exitCode))

    def _failed(self, error):
        if self._process is not None and error == qt.QProcess.FailedToStart:
            message = _("{program} could not be started: {reason}.").format(
                program=pythonExecutable(), reason=self._process.errorString()
            )
            self._end(Outcome("error", message))

    def _outcome(self, exitCode):
        details = self._errors.decode("utf-8", "replace")
        kind, said = self._last.get("event"), self._last.get("message", "")
        if self._cancelled or kind == "cancelled":
            return Outcome("cancelled", _("Cancelled. The scene is as it was."), exitCode)
        if kind == "result":
            return Outcome("result", "", exitCode, details, self._last)
        if kind == "error":
            return Outcome("error", said, self._last.get("exit_code", exitCode), details, self._last)
        message = _(
            "The search was ended from outside (exit code {code}), often for want of memory. The scene is as it was. "
            "Close other programs and try again."
        ).format(code=exitCode)
        return Outcome("killed", message, exitCode, details)

    def _end(self, outcome):
        if self._process is None:
            return
        self._deadline.stop()
        if self._cancelled:
            self._killWorker()  # a launcher that is gone says nothing of the worker behind it
        self._lastProcess, self._process = self._process, None
        self._onEnd(outcome)

    def _kill(self):
        if self._process is not None:
            self._killTree(self._process)

    def _killTree(self, process):
        self._killWorker()
        process.kill()

    def _killWorker(self):
        """Kill the worker itself; killing PythonSlicer, which is a launcher, would leave it running."""
        if self._worker and self._last.get("event") not in ("cancelled", "result", "error"):
            with suppress(OSError):
                os.kill(self._worker, getattr(signal, "SIGKILL", signal.SIGTERM))
