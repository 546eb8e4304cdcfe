"""The sections Review and Export: one case of the scene, its table, its views, and what the keys do to it."""

from contextlib import contextmanager
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from CMBDetectorLib.report.review_summary import review_lines
from CMBDetectorLib.report.review_table import read_review, suggested_name, write_review
from CMBDetectorLib.request import FLOOR
from CMBDetectorLib.review import Marker, Source, Verdict
from CMBDetectorWindow.keys import guarded
from CMBDetectorWindow.table import ReviewTable
from CMBDetectorWindow.views import Views


class ReviewSection:
    """Shows the review of one case and changes it as the reader asks.

    Parameters
    ----------
    ui : object
        The widgets of the form, as `slicer.util.childWidgetVariables` gives them.
    parameters : callable
        Returns the parameter node of the module.
    """

    def __init__(self, ui, parameters):
        self.ui, self._parameters = ui, parameters
        self.case = None
        self.views = Views()
        self.table = ReviewTable(ui.reviewTable, self._rowSelected)
        self._observed = []
        self._isActing = False
        self._areMarkersShown = True
        self._areSubRegionsShown = None
        # Slicer calls while a point is being dragged; what follows waits until it has let go.
        self._later = qt.QTimer()
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.connect("timeout()", self.takePoints)
        # Slicer gives new views their size a moment later, and the zoom follows from it.
        self._settled = qt.QTimer()
        self._settled.setSingleShot(True)
        self._settled.setInterval(200)
        self._settled.connect("timeout()", self._showCurrent)
        ui.thresholdSlider.minimum, ui.thresholdSlider.maximum = FLOOR, 0.99
        ui.thresholdSlider.singleStep, ui.thresholdSlider.decimals = 0.01, 2
        ui.thresholdSlider.connect("valueChanged(double)", self.setThreshold)
        ui.filterEdit.connect("textChanged(QString)", self.filter)
        ui.excludedCheckBox.connect("toggled(bool)", self.setShowExcluded)
        ui.commentEdit.connect("editingFinished()", self.comment)
        ui.commentEdit.connect("returnPressed()", ui.reviewTable.setFocus)  # so that keys are keys again
        for button, act in (
            (ui.acceptButton, self.accept),
            (ui.rejectButton, self.reject),
            (ui.undecidedButton, self.setUndecided),
            (ui.undoButton, self.undo),
            (ui.addButton, self.placeMissed),
            (ui.putBackButton, self.putBack),
            (ui.removeButton, self.remove),
            (ui.exportButton, self.export),
            (ui.importButton, self.importTable),
            (ui.copyButton, self.copySummary),
        ):
            button.connect("clicked(bool)", guarded(act))
        self.show(None)

    # Which case

    def show(self, case):
        """Show this case of the scene (None: none), and its images in the slice views."""
        self._unobserve()
        self.case = case
        self.ui.reviewHintLabel.visible = case is None
        self.ui.reviewContents.enabled = case is not None
        for widget in (self.ui.exportPathEdit, self.ui.exportButton, self.ui.importButton, self.ui.copyButton):
            widget.enabled = case is not None
        self.say("")
        self._told("")
        if case is None:
            self.table.fill([])
            self.ui.reviewedLabel.text = ""
            self._showCurrent(jump=False)
            return
        for node in case.lists.values():
            for event, act in (
                (node.PointStartInteractionEvent, self._pointTouched),
                (node.PointEndInteractionEvent, self._pointsChanged),
                (node.PointPositionDefinedEvent, self._pointsChanged),
                (node.PointRemovedEvent, self._pointsChanged),
            ):
                self._observed.append((node, node.AddObserver(event, act)))
        if not Path(self.ui.exportPathEdit.currentPath).name.startswith(Path(suggested_name(case.review)).stem):
            self.ui.exportPathEdit.currentPath = str(Path.home() / suggested_name(case.review))
        self._areSubRegionsShown = None
        self.settingsChanged()
        case.show_markers(True)
        self._areMarkersShown = True
        self.table.reset()
        self.ui.filterEdit.text = ""
        self._refill()
        self.table.fitColumns()
        if case.swi is not None:
            self.views.show(case.swi, case.phase_filtered or case.phase)
            self._settled.start()
        self.go(case.review.next_undecided(None, self.table.order) or case.review.next(None, self.table.order))

    def forget(self):
        """Let go of the scene, which is about to be emptied."""
        self._unobserve()
        self._later.stop()
        self._settled.stop()
        self.case = None
        self.views.swi = self.views.phase = None
        self.show(None)

    def _unobserve(self):
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []

    # Moving about

    def go(self, key):
        """Select a finding and center the views on it."""
        if key is None or self.case is None:
            return
        self.table.select(key)
        self._showCurrent()

    def next(self, *_unused):
        if self.case:
            self.go(self.case.review.next(self.table.current, self.table.order))

    def previous(self, *_unused):
        if self.case:
            self.go(self.case.review.previous(self.table.current, self.table.order))

    def filter(self, text):
        self.table.filterBy(text)
        self._showCurrent(jump=False)

    def _rowSelected(self, key):
        self._showCurrent()

    def _showCurrent(self, jump=True):
        """Describe the selected finding below the table, and center the views on it."""
        key = self.table.current
        finding = self.case.review[key] if self.case and key in self.case.review else None
        self.ui.findingLabel.text = _describe(finding) if finding else _("No finding is selected.")
        self.ui.commentEdit.blockSignals(True)
        self.ui.commentEdit.text = finding.comment if finding else ""
        self.ui.commentEdit.blockSignals(False)
        for widget in (self.ui.commentEdit, self.ui.acceptButton, self.ui.rejectButton, self.ui.undecidedButton):
            widget.enabled = finding is not None
        self.ui.putBackButton.enabled = finding is not None and finding.is_moved
        self.ui.removeButton.enabled = finding is not None and finding.source is Source.READER
        self.ui.undoButton.enabled = bool(self.case and self.case.review.can_undo)
        if finding and jump:
            self.views.jump(finding.position_ras_mm, self._parameters().zoomMm)

    # What the reader decides

    def accept(self, *_unused):
        self._decide(Verdict.ACCEPTED)

    def reject(self, *_unused):
        self._decide(Verdict.REJECTED)

    def setUndecided(self, *_unused):
        self._decide(Verdict.UNDECIDED)

    def _decide(self, verdict):
        key = self.table.current
        if self.case is None or key is None:
            return
        self.comment()  # what was typed and not yet entered
        before = list(self.table.order)
        with self._acting():
            self.case.decide(key, verdict, self._parameters().reader)
        review = self.case.review
        self._changed(key)
        if verdict is Verdict.UNDECIDED:
            self._showCurrent()
            return
        following = review.next_undecided(key, [k for k in before if k in self.table.order])
        if following is None:
            self._showCurrent()
            self.say(_("Everything shown is reviewed."))
        else:
            self.go(following)

    def comment(self, *_unused):
        key = self.table.current
        if self.case is None or key is None or self.ui.commentEdit.text == self.case.review[key].comment:
            return
        with self._acting():
            self.case.comment(key, self.ui.commentEdit.text)
        self._changed(key)

    def undo(self, *_unused):
        if self.case is None:
            return
        with self._acting():
            key = self.case.undo()
        self._refill()
        if key in self.table.order:
            self.go(key)
        elif key is None:
            self.say(_("There is nothing to undo."))

    def setThreshold(self, value):
        if self.case is None or abs(value - self.case.review.threshold) < 1e-6:
            return
        with self._acting():
            self.case.set_threshold(value)
        self._refill()
        self._showCurrent(jump=False)

    def setShowExcluded(self, shown):
        if self.case is None or shown == self.case.review.show_excluded:
            return
        with self._acting():
            self.case.set_show_excluded(shown)
        self._refill()

    # Points

    def placeMissed(self, *_unused):
        """Let the reader click on a microbleed that the detector missed; again: not after all."""
        if self.case is None:
            return
        logic = slicer.app.applicationLogic()
        interaction = logic.GetInteractionNode()
        if interaction.GetCurrentInteractionMode() == interaction.Place:
            interaction.SetCurrentInteractionMode(interaction.ViewTransform)
            self.say("")
            return
        logic.GetSelectionNode().SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsFiducialNode")
        logic.GetSelectionNode().SetActivePlaceNodeID(self.case.lists[Marker.ACCEPTED].GetID())
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(interaction.Place)
        self.say(_("Click on the microbleed in a slice view. Right-click to stop."))

    def takePoints(self):
        """Take over what the reader did to the points in the views: dragged, placed, deleted."""
        if self.case is None:
            return
        with slicer.util.tryWithErrorDisplay(_("The point could not be taken over.")):
            with self._acting():
                keys = self.case.take_points(self._parameters().reader)
            if keys:
                self.say("")
                self._refill()
                self.table.select(keys[-1])
                self._showCurrent(jump=False)

    def putBack(self, *_unused):
        """Put a moved point back to where the detector found it."""
        if self.case is None or self.table.current is None:
            return
        key = self.table.current
        with self._acting():
            self.case.move(key, None)
        self._changed(key)
        self.go(key)

    def remove(self, *_unused):
        """Remove a finding that the reader added."""
        key = self.table.current
        if self.case is None or key is None or self.case.review[key].source is not Source.READER:
            return
        following = self.case.review.previous(key, self.table.order)
        with self._acting():
            self.case.remove(key)
        self._refill()
        self.go(following)

    def _pointTouched(self, node, _event):
        key = self.case.key_of(node, node.GetDisplayNode().GetActiveControlPoint()) if self.case else None
        if key is not None:
            self.table.select(key)
            self._showCurrent(jump=False)  # the view must not move under the mouse

    def _pointsChanged(self, *_unused):
        if not self._isActing and self.case is not None:
            self._later.start()

    # Views

    def toggleMarkers(self, *_unused):
        if self.case:
            self._areMarkersShown = not self._areMarkersShown
            with self._acting():
                self.case.show_markers(self._areMarkersShown)

    def toggleMinip(self, *_unused):
        if self.case:
            self.views.setMinip(not self.views.isMinip, self._parameters().slabMm)

    def swap(self, *_unused):
        if self.case:
            self.views.swap()
            self.views.setMinip(self.views.isMinip, self._parameters().slabMm)

    def settingsChanged(self):
        """Follow the advanced settings."""
        if self.case is None:
            return
        if self._parameters().subRegions is not self._areSubRegionsShown:  # else the reader's own choice stays
            self._areSubRegionsShown = self._parameters().subRegions
            with self._acting():
                self.case.show_sub_regions(self._areSubRegionsShown)
        if self.views.isMinip:
            self.views.setMinip(True, self._parameters().slabMm)

    # Files

    def export(self, *_unused):
        """Write the table to the path shown."""
        if self.case is None:
            return
        path = Path(self.ui.exportPathEdit.currentPath)
        write_review(self.case.review, path)
        self._told(_("Saved {path}").format(path=path))

    def importTable(self, *_unused):
        """Take over the review in the table at the path shown."""
        if self.case is None:
            return
        path = Path(self.ui.exportPathEdit.currentPath)
        with self._acting():
            restored, added = self.case.restore(read_review(path, to=self.case.review))
        self._refill()
        self._showCurrent()
        text = _("Restored {n} findings, {added} of them new here. Undo takes this back.")
        self._told(text.format(n=restored, added=added))

    def copySummary(self, *_unused):
        if self.case:
            slicer.app.clipboard().setText("\n".join(review_lines(self.case.review)))
            self._told(_("The summary is on the clipboard."))

    # Keeping the panel up to date

    @contextmanager
    def _acting(self):
        """While the module changes points itself, what they say is no news."""
        before, self._isActing = self._isActing, True
        try:
            yield
        finally:
            self._isActing = before

    def _changed(self, key):
        """Show a changed finding; all of them where it came or went."""
        review = self.case.review
        finding = review[key]
        visible = finding in review.visible()
        if visible == (key in self.table.order):
            self.table.update(finding)
        else:
            self.table.fill(review.visible())
        self._count()

    def _refill(self):
        review = self.case.review
        self.table.fill(review.visible())
        self.ui.thresholdSlider.blockSignals(True)
        self.ui.thresholdSlider.value = review.threshold
        self.ui.thresholdSlider.blockSignals(False)
        self.ui.excludedCheckBox.blockSignals(True)
        self.ui.excludedCheckBox.checked = review.show_excluded
        self.ui.excludedCheckBox.blockSignals(False)
        self._count()
        self._showCurrent(jump=False)

    def _count(self):
        done, due = self.case.review.progress()
        self.ui.reviewedLabel.text = _("{k} of {n} reviewed").format(k=done, n=due)
        self.ui.undoButton.enabled = self.case.review.can_undo

    def say(self, text):
        """Say something below the table."""
        self.ui.reviewMessageLabel.text = text
        self.ui.reviewMessageLabel.visible = bool(text)

    def _told(self, text):
        """Say what became of a file."""
        self.ui.exportLabel.text = text
        self.ui.exportLabel.visible = bool(text)


def _describe(finding):
    """Say all that is known of a finding, in one paragraph."""
    place = finding.location
    parts = [
        ", ".join((place.region.value, place.sub_region_name, place.side.value)) if place else _("outside the brain"),
        "" if finding.diameter_mm != finding.diameter_mm else f"{finding.diameter_mm:.1f} mm",
        finding.phase_evidence.value,
        "" if finding.probability is None else _("probability {p:.2f}").format(p=finding.probability),
        finding.exclusion and _("excluded: {why}").format(why=finding.exclusion),
        _("moved by the reader") if finding.is_moved else "",
        "" if finding.is_current else _("not found by the last search"),
    ]
    return f"<b>{finding.name}</b>  " + "; ".join(part for part in parts if part)
