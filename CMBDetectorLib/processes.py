"""One function on many things, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection
from typing import TypeVar

from CMBDetectorLib.errors import OutOfMemoryError

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def in_processes(processes: int) -> Iterator[Callable[..., Iterator]]:
    """Give a `map`: the usual one for up to one process, else one that computes in that many, of one thread each.

    Several give their results as they finish. After an error, or when the run is stopped, nothing more is begun, and
    what has begun is finished; only a process that ends by itself takes the others with it.

    Raises
    ------
    OutOfMemoryError
        A process was ended from outside, which is what happens where memory does not suffice.
    """
    if processes <= 1:
        yield map
        return
    start = multiprocessing.get_context("spawn")  # a GPU cannot be used in a fork
    with ProcessPoolExecutor(processes, start, initializer=_begin) as pool:
        pool.submit(int).result()  # a process that cannot even begin is a fault of the program

        def run(function: Callable[[T], R], things: Iterable[T]) -> Iterator[R]:
            upcoming = iter(things)
            begun: set[Future[R]] = {pool.submit(function, thing) for thing in islice(upcoming, processes)}
            while begun:
                done, begun = wait(begun, return_when=FIRST_COMPLETED)
                results = [future.result() for future in done]
                begun |= {pool.submit(function, thing) for thing in islice(upcoming, len(done))}
                yield from results

        try:
            yield run
        except BrokenProcessPool:
            raise OutOfMemoryError(
                f"One of {processes} processes was ended, as happens where memory does not suffice. Use fewer."
            ) from None


def _begin() -> None:
    """Make ready a process that others compute beside."""
    leave_stopping_to_the_parent()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()

    import SimpleITK as sitk
    import torch

    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def leave_stopping_to_the_parent() -> None:
    """Go out of the group of processes that Ctrl+C and others stop at once: the parent ends what it has begun."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork inherits the parent's handler
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_the_parent() -> None:
    """Wait for the parent's end, however it comes: what was killed cannot end what it has begun."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
