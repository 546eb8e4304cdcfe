"""Pictures of the module on the sample case: ``python -m Testing.window.screenshots FOLDER`` (``make screenshots``).

The panel is the module's own code and form, drawn by Qt on the stand-in for Slicer's window; the slice views are
Slicer's own slice logics and displayable managers, drawn without a screen. Neither is the Slicer application.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from Testing.window.stand_in import start

NARROW, WIDE, HEIGHT = 400, 640, 900


def grab(widget: Any) -> Image.Image:
    """Draw a widget as it is shown."""
    from PySide6.QtGui import QImage

    image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return Image.fromarray(rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy())


def make_dark() -> None:
    """Use dark colors, as Slicer's dark style does."""
    from PySide6.QtGui import QColor, QPalette
    from PySide6.QtWidgets import QApplication

    palette, role = QPalette(QColor(53, 53, 53)), QPalette.ColorRole
    for which, gray in ((role.Base, 35), (role.AlternateBase, 45), (role.Button, 60)):
        palette.setColor(which, QColor(gray, gray, gray))
    application: Any = QApplication.instance()
    application.setPalette(palette)


def main(folder: Path) -> None:
    start()
    import slicer

    from Testing.window.slice_pictures import four_views

    folder.mkdir(parents=True, exist_ok=True)
    window = slicer.util.mainWindow()

    def show(width: int, name: str = "", height: int = HEIGHT) -> Image.Image:
        window.resize(width, height)
        for _ in range(3):
            slicer.app.processEvents()
        picture = grab(window)
        if name:
            picture.save(folder / name, optimize=True)
        return picture

    slicer.util.selectModule("CMBDetector")
    panel = slicer.modules.cmbdetector.widgetRepresentation().self()
    show(NARROW, "panel-empty.png", 480)
    panel.ui.sampleButton.click()
    panel.ui.readerEdit.text = "AB"
    panel.ui.detectButton.click()
    taken = False
    while panel.search.isRunning:
        slicer.app.processEvents()
        time.sleep(0.01)
        if not taken and panel.ui.progressBar.value > 600:
            show(NARROW, "detecting.png", 480)
            taken = True
    assert panel.review.case is not None, panel.ui.stageLabel.text

    review = panel.review
    panel.ui.exportPathEdit.currentPath = "/reviews/Sample_SWI_microbleeds.csv"
    for act in (review.accept, review.accept, review.reject, review.next):
        act()
    for _ in range(3):
        slicer.app.processEvents()
    views = Image.fromarray(four_views(slicer.app.applicationLogic(), (520, 448)))
    views.save(folder / "slice-views.png", optimize=True)
    review.toggleMinip()
    Image.fromarray(four_views(slicer.app.applicationLogic(), (520, 448))).save(folder / "slice-views-minip.png")
    review.toggleMinip()

    show(WIDE, "panel-wide.png")
    narrow = show(NARROW, "panel-narrow.png")
    whole = Image.new("RGB", (narrow.width + views.width, max(narrow.height, views.height)))
    whole.paste(narrow, (0, 0))
    whole.paste(views, (narrow.width, 0))
    whole.save(folder / "window.png", optimize=True)
    panel.ui.reviewCollapsibleButton.collapsed = panel.ui.exportCollapsibleButton.collapsed = True
    panel.ui.inputsCollapsibleButton.collapsed = panel.ui.detectCollapsibleButton.collapsed = False
    panel.ui.advancedCollapsibleButton.collapsed = False
    show(NARROW, "panel-settings.png")
    panel.showCase(review.case)
    panel.ui.advancedCollapsibleButton.collapsed = True
    make_dark()
    show(NARROW, "panel-dark.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
