"""Being told to stop from outside: a terminated process cleans up as an interrupted one does, in every open block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_due: list[Callable[[], object]] = []


def raise_on_termination() -> None:
    """Make SIGTERM and SIGHUP raise `KeyboardInterrupt`, as Ctrl+C does, unless the parent has them ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _raise)


@contextmanager
def signals_held() -> Iterator[list[int]]:
    """Note the signals to stop that come within the block, which must not end halfway; the first takes effect after it.

    A second one, of somebody who does not want to wait, takes effect at once.
    """
    came: list[int] = []
    usual: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        if came:
            signal.signal(number, usual[number])
            signal.raise_signal(number)
        came.append(number)

    if threading.current_thread() is threading.main_thread():  # others neither get signals nor may hold them
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and callable(signal.getsignal(number)):  # not ignored, nor left to the system
                usual[number] = signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


@contextmanager
def cleared_away(clear: Callable[[], object]) -> Iterator[None]:
    """Call `clear` when the block ends, however it ends; `abandon` calls it, too, from another thread."""
    _due.append(clear)
    try:
        yield
    finally:
        try:
            clear()
        finally:
            _due.remove(clear)  # not before: whoever abandons the process meanwhile has to clear away, too


def abandon() -> None:
    """Clear away what every unfinished block would; for a process that must end at once, from any thread."""
    for clear in reversed(_due):
        with suppress(OSError):  # one that cannot be cleared away keeps no other
            clear()


def _raise(number: int, frame: object) -> None:
    raise KeyboardInterrupt
