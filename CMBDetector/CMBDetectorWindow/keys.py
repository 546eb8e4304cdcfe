"""The keys of the review, active while the panel is shown, and their legend: both from the one table of shortcuts."""

import traceback
from contextlib import contextmanager

import qt
import slicer
from slicer.i18n import tr as _

from CMBDetectorLib.review import SHORTCUTS
from CMBDetectorWindow.words import translated


class Keys:
    """Keyboard shortcuts of the main window, so that they work wherever the focus is, but not while text is typed.

    Parameters
    ----------
    actions : dict
        What to call for each name in `CMBDetectorLib.review.SHORTCUTS`.
    """

    def __init__(self, actions):
        self._actions = actions
        self._shortcuts = []

    @property
    def areActive(self):
        return bool(self._shortcuts)

    def activate(self):
        """Make the shortcuts; does nothing when they are there."""
        window = slicer.util.mainWindow()
        if self._shortcuts or window is None:
            return
        for shortcut in SHORTCUTS:
            key = qt.QShortcut(qt.QKeySequence(shortcut.key), window)
            action = guarded(self._actions[shortcut.name])
            key.connect("activated()", action)
            self._shortcuts.append((key, action))

    def deactivate(self):
        """Delete them, so that no other module ever meets them."""
        for key, action in self._shortcuts:
            key.disconnect("activated()", action)
            key.setParent(None)
            key.deleteLater()
        self._shortcuts = []


@contextmanager
def problemsShown(message):
    """Show what goes wrong, in words and with details.

    Slicer's `tryWithErrorDisplay` would not call `errorDisplay` where Slicer runs tests, so none could tell.
    """
    try:
        yield
    except Exception as problem:
        slicer.util.errorDisplay(f"{message}\n\n{problem}", detailedText=traceback.format_exc())
        raise


def guarded(action):
    """Make an action for a key, a widget or a point: what goes wrong is shown."""

    def act(*arguments):
        with problemsShown(_("That did not work.")):
            action(*arguments)

    return act


def legend():
    """List the keys and what they do, as rich text for a label."""
    keys = [(shortcut.key, translated(shortcut.description)) for shortcut in SHORTCUTS]
    cells = [f"<td><b>{key}</b>&nbsp;&nbsp;</td><td>{does}&nbsp;&nbsp;&nbsp;</td>" for key, does in keys]
    half = (len(cells) + 1) // 2
    cells += [""] * (2 * half - len(cells))
    rows = (f"<tr>{left}{right}</tr>" for left, right in zip(cells[:half], cells[half:], strict=True))
    return f"<table>{''.join(rows)}</table>"
