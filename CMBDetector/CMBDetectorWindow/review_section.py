"""The sections Review and Export: one case of the scene, its table, its views, and what the keys do to it."""

from contextlib import contextmanager, suppress
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from CMBDetectorLib.errors import CMBDetectorError, InputError
from CMBDetectorLib.report.review_summary import review_lines
from CMBDetectorLib.report.review_table import read_review, suggested_name, write_review
from CMBDetectorLib.request import FLOOR
from CMBDetectorLib.review import Marker, Source, Verdict
from CMBDetectorLib.scene.case import cases
from CMBDetectorWindow.problems import guarded, problemsShown
from CMBDetectorWindow.table import ReviewTable
from CMBDetectorWindow.views import Views
from CMBDetectorWindow.words import regionOf, translated

READER = "CMBDetector/reader"  # of the settings of this computer: a scene of somebody else brings no other name


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
        self._case = None
        self.views = Views()
        self.table = ReviewTable(ui.reviewTable, self._rowSelected)
        self._observed, self._watched = [], []
        self._isActing = self._isPlacing = False
        self._hint = ui.reviewHintLabel.text
        self._folder = Path.home()  # of the table saved last
        self._saved = {}  # file: the node of the case whose table was written there last
        self._suggestedTo = None  # node of the case whose path is shown
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
        ui.thresholdSlider.connect("valueChanged(double)", guarded(self.setThreshold))
        ui.filterEdit.connect("textChanged(QString)", guarded(self.filter))
        ui.excludedCheckBox.connect("toggled(bool)", guarded(self.setShowExcluded))
        ui.commentEdit.connect("editingFinished()", guarded(self.comment))
        ui.commentEdit.connect("returnPressed()", ui.reviewTable.setFocus)  # so that keys are keys again
        ui.readerEdit.text = str(qt.QSettings().value(READER, "") or "")
        ui.readerEdit.connect("textChanged(QString)", self.rememberReader)
        ui.readerEdit.connect("returnPressed()", ui.reviewTable.setFocus)
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

    @property
    def case(self):
        """The case shown; None also where it was taken out of the scene meanwhile."""
        return self._case if self._case is not None and self._case.node.GetScene() is not None else None

    @property
    def node(self):
        """The text node of the case shown, in the scene or not; None: no case is shown."""
        return self._case.node if self._case is not None else None

    def show(self, case, hint=""):
        """Show this case of the scene (None: none, and `hint` says why), and its images in the slice views."""
        self.leave()
        self._letGo()
        suggested = suggested_name(case.review) if case else ""  # fails where the review is damaged
        self._case = case
        self.ui.reviewHintLabel.text = hint or self._hint
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
        with self._acting():  # a click may have come late, and the lists of a file may be older than the review
            case.take_points(self.reader, only_placed=True)
        if self._suggestedTo is not case.node:
            self._suggestedTo = case.node
            self.ui.exportPathEdit.currentPath = str(self._folder / suggested)
        self._areSubRegionsShown = None
        self.settingsChanged()
        self.hideOthers()
        case.show_in_views(True)
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

    def hideOthers(self):
        """Hide points and regions of all other cases: over these images they would be taken for findings."""
        for other in cases(slicer.mrmlScene) if self.case else ():
            if other.node is not self.node:
                other.show_in_views(False)

    def leave(self):
        """Keep what was typed or clicked and not yet taken, and let no click come after: it is for this case."""
        if self.case is not None:
            with suppress(CMBDetectorError):  # a damaged review keeps nobody from another case
                self.comment()
                if self._later.active:
                    self.takePoints()
        self._stopPlacing()

    def forget(self):
        """Let go of the scene, which is about to be emptied."""
        self._stopPlacing()
        self._letGo()
        self._case = self._suggestedTo = None
        self._saved = {}
        self.views.swi = self.views.phase = None
        self.show(None)

    def _letGo(self):
        self._later.stop()
        self._settled.stop()
        self._unobserve()

    def _observe(self):
        """Watch the lists; in the place of one that was removed meanwhile there is another."""
        lists = list(self.case.lists.values())
        if lists == self._watched:
            return
        self._unobserve()
        self._watched = lists
        for node in lists:
            for event, act in (
                (node.PointStartInteractionEvent, guarded(self._pointTouched)),
                (node.PointEndInteractionEvent, self._pointsChanged),
                (node.PointPositionDefinedEvent, self._pointsChanged),
                (node.PointRemovedEvent, self._pointsChanged),
            ):
                self._observed.append((node, node.AddObserver(event, act)))
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        event = interaction.InteractionModeChangedEvent
        self._observed.append((interaction, interaction.AddObserver(event, self._modeChanged)))

    def _unobserve(self):
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed, self._watched = [], []

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
        self.comment()
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

    @property
    def reader(self):
        """Who reads, as verdicts will say."""
        return self.ui.readerEdit.text.strip()

    def rememberReader(self, *_unused):
        qt.QSettings().setValue(READER, self.reader)
        self.say("")

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
            self.case.decide(key, verdict, self.reader)
        review = self.case.review
        self._changed(key)
        if verdict is Verdict.UNDECIDED:
            self._showCurrent()
            return
        following = review.next_undecided(key, [k for k in before if k in self.table.order])
        if following is None:
            self._showCurrent()
        else:
            self.go(following)
        if not self.reader:
            self.say(_("Write your initials into the field Reader, so that verdicts carry them."))
        else:
            self.say("" if following else _("Everything shown is reviewed."))

    def comment(self, *_unused):
        key = self.table.current
        if self.case is None or key not in self.case.review:
            return
        if self.ui.commentEdit.text == self.case.review[key].comment:
            return
        with self._acting():
            self.case.comment(key, self.ui.commentEdit.text)
        self._changed(key)

    def undo(self, *_unused):
        if self.case is None:
            return
        self.comment()
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
        self.comment()
        with self._acting():
            self.case.set_threshold(value)
        self._refill()
        self._showCurrent(jump=False)

    def setShowExcluded(self, shown):
        if self.case is None or shown == self.case.review.show_excluded:
            return
        self.comment()
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
        if self._stopPlacing():
            return
        logic.GetSelectionNode().SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsFiducialNode")
        logic.GetSelectionNode().SetActivePlaceNodeID(self.case.lists[Marker.ACCEPTED].GetID())
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(interaction.Place)
        self.say(_("Click on the microbleed in a slice view. Right-click to stop."))
        self._isPlacing = True

    def _stopPlacing(self):
        """Where the next click would place a point of this case, let it place none; says whether it was so."""
        if not self._watched:
            return False
        logic = slicer.app.applicationLogic()
        interaction, active = logic.GetInteractionNode(), logic.GetSelectionNode().GetActivePlaceNodeID()
        isPlacing = interaction.GetCurrentInteractionMode() == interaction.Place
        if not isPlacing or active not in {node.GetID() for node in self._watched}:
            return False
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        return True

    def _modeChanged(self, interaction, _event):
        if self._isPlacing and interaction.GetCurrentInteractionMode() != interaction.Place:
            self._isPlacing = False
            self.say("")

    def takePoints(self):
        """Take over what the reader did to the points in the views: dragged, placed, deleted."""
        if self.case is None:
            return
        with problemsShown(_("The point could not be taken over.")):
            with self._acting():
                keys = self.case.take_points(self.reader)
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
            self.comment()
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
        self._observe()
        if self._parameters().subRegions is not self._areSubRegionsShown:  # else the reader's own choice stays
            self._areSubRegionsShown = self._parameters().subRegions
            with self._acting():
                self.case.show_sub_regions(self._areSubRegionsShown)
        if self.views.isMinip:
            self.views.setMinip(True, self._parameters().slabMm)

    # Files

    def export(self, *_unused):
        """Write the table to the path shown; what stands there and is not this table stays, unless the user agrees."""
        if self.case is None:
            return
        self.comment()
        path = Path(self.ui.exportPathEdit.currentPath.strip())
        if not path.name:
            raise InputError(_("There is no file name. Write one into the field above Save table."))
        if not self._mayWrite(path):
            self._told(_("Nothing was saved. Choose another file name."))
            return
        write_review(self.case.review, path)
        self._saved[path], self._folder = self.node, path.parent
        self._told(_("Saved {path}").format(path=path))

    def _mayWrite(self, path):
        if self._saved.get(path) is self.node or not path.is_file():
            return True
        try:
            read_review(path, to=self.case.review)
            question = _("{path} holds a review of this scan already. Replace it?")
        except CMBDetectorError:
            question = _("{path} exists, and it is no review of this scan. Replace it?")
        return slicer.util.confirmOkCancelDisplay(question.format(path=path))

    def chooseTable(self):
        """Let the user choose a table to load; empty when none is."""
        return qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Load table"), str(self._folder), _("Table (*.csv)")
        )

    def importTable(self, *_unused):
        """Take over the review in a table that the user chooses."""
        path = self.chooseTable() if self.case else ""
        if not path:
            return
        self.comment()
        with self._acting():
            restored, added = self.case.restore(read_review(Path(path), to=self.case.review))
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
        if self.case is not None:
            self._observe()

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
    names = (regionOf(place), _subRegionOf(place), translated(place.side.value)) if place else ()
    parts = [
        ", ".join(names) or _("outside the brain"),
        "" if finding.diameter_mm != finding.diameter_mm else f"{finding.diameter_mm:.1f} mm",
        translated(finding.phase_evidence.value),
        "" if finding.probability is None else _("probability {p:.2f}").format(p=finding.probability),
        finding.exclusion and _("excluded: {why}").format(why=finding.exclusion),
        _("moved by the reader") if finding.is_moved else "",
        "" if finding.is_current else _("not found by the last search"),
    ]
    return f"<b>{finding.name}</b>  " + "; ".join(part for part in parts if part)


def _subRegionOf(place):
    """Name a sub-region, and how much of the tissue around lies in it where that is known."""
    name, share = translated(place.sub_region_name), place.sub_region_probability
    return name if share != share else _("{name} ({share} of the tissue)").format(name=name, share=f"{share:.0%}")
