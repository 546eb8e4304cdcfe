"""Being told to stop from outside: a terminated process cleans up as an interrupted one does."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        clear()
        _due.remove(clear)


def abandon() -> None:
    """Clear away what every unfinished block would; for a process that must end at once, from any thread."""
    for clear in reversed(_due):
        clear()


def _raise(number: int, frame: object) -> None:
    raise KeyboardInterrupt
