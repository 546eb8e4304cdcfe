"""Being told to stop from outside: a terminated process cleans up as an interrupted one does."""

from __future__ import annotations

import signal


def raise_on_termination() -> None:
    """Make SIGTERM and SIGHUP raise `KeyboardInterrupt`, as Ctrl+C does, unless the parent has them ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _raise)


def _raise(number: int, frame: object) -> None:
    raise KeyboardInterrupt
