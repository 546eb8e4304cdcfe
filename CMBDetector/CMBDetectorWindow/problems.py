"""What goes wrong in the panel, shown to its user in words and with details."""

import traceback
from contextlib import contextmanager

import slicer
from slicer.i18n import tr as _


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
