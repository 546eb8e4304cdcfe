"""One function on many things, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def in_processes(processes: int) -> Iterator[Callable[..., Iterator]]:
    """Give a `map`: the usual one for up to one process, else one that computes in that many, of one thread each.

    Results come in order. An error ends what has not begun.
    """
    if processes <= 1:
        yield map
        return
    start = multiprocessing.get_context("spawn")  # a GPU cannot be used in a fork
    with ProcessPoolExecutor(processes, start, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
