"""File names in every language, whatever the locale says."""

from __future__ import annotations

import os
import sys


def restart_in_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode where the locale knows few letters, as with ``LC_ALL=C``.

    Else neither Python nor ITK could open a file with another letter in its name. The process stays the same one.
    """
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
