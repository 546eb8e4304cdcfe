"""Being told to stop from outside: a terminated process cleans up as an interrupted one does, in every open block."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_due: list[Callable[[], object]] = []


def raise_on_termination() -> None:
    """Make SIGTERM and SIGHUP raise `KeyboardInterrupt`, as Ctrl+C does, unless the parent has them ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _raise)


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
