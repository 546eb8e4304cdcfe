"""The keys of the review, active while the panel is shown, and their legend: both from the one table of shortcuts."""

import qt
import slicer

from CMBDetectorLib.review import SHORTCUTS
from CMBDetectorWindow.problems import guarded
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


def legend():
    """List the keys and what they do, as rich text for a label."""
    keys = [(shortcut.key, translated(shortcut.description)) for shortcut in SHORTCUTS]
    cells = [f"<td><b>{key}</b>&nbsp;&nbsp;</td><td>{does}&nbsp;&nbsp;&nbsp;</td>" for key, does in keys]
    half = (len(cells) + 1) // 2
    cells += [""] * (2 * half - len(cells))
    rows = (f"<tr>{left}{right}</tr>" for left, right in zip(cells[:half], cells[half:], strict=True))
    return f"<table>{''.join(rows)}</table>"
