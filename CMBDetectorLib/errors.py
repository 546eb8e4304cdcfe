"""What can go wrong, as sentences for the person at the keyboard.

Every message names the file and the value and says what to do. The command line, the worker and the window show
it as it is; a traceback is for defects only.
"""

from __future__ import annotations

import re

# Python alone has a type for it; the others are torch, NumPy's threads, ITK, C++ and the loader of libraries.
_NO_MEMORY = re.compile(
    "not enough memory|out of memory|can't allocate|cannot allocate memory|failed to allocate|bad_alloc|bad allocation"
    "|can't start new thread|failed to map segment from shared object$|paging file is too small",
    re.IGNORECASE,
)
# TorchScript makes a plain RuntimeError of every exception, so that only the words tell.
_NO_DEVICE_MEMORY = re.compile(
    "(CUDA|HIP)( driver)?( error:)? out of memory|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED", re.IGNORECASE
)


class CMBDetectorError(Exception):
    """Base of all errors whose message is meant for the user; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(CMBDetectorError):
    """The images given cannot be searched: unreadable, of the wrong kind, or not a pair."""

    exit_code = 2


class DoubtfulInputError(InputError):
    """The images could be searched, but the result would be doubtful; `doubt` says why, in one sentence."""

    def __init__(self, doubt: str) -> None:
        super().__init__(f"{doubt} To search it all the same, use --force.")
        self.doubt = doubt


class ModelError(CMBDetectorError):
    """A bundled network is missing, damaged, or not the one its manifest describes."""

    exit_code = 3


class OutputError(CMBDetectorError):
    """The results cannot be written: no permission, no space, or the folder is taken."""

    exit_code = 4


class OutOfMemoryError(CMBDetectorError):
    """The machine has too little memory for this scan."""

    exit_code = 5

    @classmethod
    def for_image(cls, path: object) -> OutOfMemoryError:
        """Say it of one image file."""
        return cls(f"The memory of this machine does not suffice for {path}. Close other programs and try again.")


class DeviceMemoryError(OutOfMemoryError):
    """The GPU has too little memory for this scan; the CPU may do."""

    exit_code = 6


class Cancelled(CMBDetectorError):
    """The user asked to stop. Nothing was written."""

    exit_code = 130


def want_of_memory(problem: BaseException, image: object) -> OutOfMemoryError | None:
    """Give what to tell of an exception that says that no memory is left for an image; None for any other."""
    if isinstance(problem, OutOfMemoryError):
        return problem
    if is_want_of_device_memory(problem):
        return DeviceMemoryError("The memory of the GPU does not suffice. Choose the device 'cpu'.")
    return OutOfMemoryError.for_image(image) if is_want_of_memory(problem) else None


def is_want_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that the machine, or its GPU, has no memory left."""
    return (
        isinstance(problem, MemoryError) or bool(_NO_MEMORY.search(str(problem))) or is_want_of_device_memory(problem)
    )


def is_want_of_device_memory(problem: BaseException) -> bool:
    """Whether an exception says that the GPU has no memory left."""
    return isinstance(problem, DeviceMemoryError) or bool(_NO_DEVICE_MEMORY.search(str(problem)))
