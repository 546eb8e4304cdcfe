"""The table of findings: one row each, sorted by a click on a column and filtered by words."""

import math
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

from CMBDetectorLib.review import MARKER_COLORS, Source
from CMBDetectorWindow.words import regionOf, translated


@dataclass(frozen=True)
class Column:
    """One column: its title, what it means, the text of a finding, and what to sort by."""

    title: str
    meaning: str
    text: Any
    order: Any


def _sub_region(finding):
    return translated(finding.location.sub_region_name) if finding.location else ""


def _number(value):
    return "" if value is None or math.isnan(value) else f"{value:.1f}"


# Verdict and region first: they stay in sight where the panel is narrow.
COLUMNS = (
    Column(_("No."), _("By falling probability; R: added by a reader"),
           lambda f: f.name, lambda f: (f.source is Source.READER, f.number)),
    Column(_("Verdict"), _("What the reader decided"),
           lambda f: translated(f.marker.value), lambda f: list(MARKER_COLORS).index(f.marker)),
    Column(_("Prob."), _("The detector's score, not the chance of disease"),
           lambda f: "" if f.probability is None else f"{f.probability:.2f}", lambda f: -(f.probability or 0)),
    Column(_("Region"), _("Lobar, deep or infratentorial; at a border both"),
           lambda f: regionOf(f.location) if f.location else _("outside"),
           lambda f: f.location.region.value if f.location else "~"),
    Column(_("Sub-region"), _("Of the Microbleed Anatomical Rating Scale"),
           _sub_region, lambda f: f.location.sub_region if f.location else 99),
    Column(_("Side"), _("Of the patient"),
           lambda f: translated(f.location.side.value) if f.location else "",
           lambda f: f.location.side.value if f.location else "~"),
    Column(_("mm"), _("Apparent diameter on SWI; grows with echo time"),
           lambda f: _number(f.diameter_mm), lambda f: -f.diameter_mm if f.diameter_mm == f.diameter_mm else 0),
    Column(_("Phase"), _("Paramagnetic as a microbleed, diamagnetic as calcium"),
           lambda f: translated(f.phase_evidence.value), lambda f: f.phase_evidence.value),
    Column(_("Comment"), _("Of the reader"), lambda f: f.comment, lambda f: (not f.comment, f.comment)),
)  # fmt: skip
VERDICT, SUB_REGION, COMMENT = 1, 4, 8


class ReviewTable:
    """Shows findings in a QTableWidget and says which one the reader is at.

    Sorting and filtering are done here rather than by Qt, so that `order` is what the keys walk through.

    Parameters
    ----------
    widget : QTableWidget
    onSelected : callable
        Called with the key of the finding whose row the user selected.
    """

    def __init__(self, widget, onSelected):
        self._widget, self._onSelected = widget, onSelected
        self._findings = {}
        self.order = []  # keys of the rows, from the top
        self._sortedBy, self._isReversed = 0, False
        self._words = []
        self._written = []  # texts of each row, so that only what changes is written
        self._isFilling = False
        widget.setColumnCount(len(COLUMNS))
        widget.setHorizontalHeaderLabels([column.title for column in COLUMNS])
        for index, column in enumerate(COLUMNS):
            widget.horizontalHeaderItem(index).setToolTip(column.meaning)
        widget.verticalHeader().setVisible(False)
        widget.verticalHeader().setDefaultSectionSize(widget.fontMetrics().height() + 8)
        header = widget.horizontalHeader()
        header.setSectionsClickable(True)
        header.setSortIndicatorShown(True)
        header.setSortIndicator(0, qt.Qt.AscendingOrder)
        header.setHighlightSections(False)
        header.setStretchLastSection(True)
        header.connect("sectionClicked(int)", self.sortBy)
        widget.connect("itemSelectionChanged()", self._selectionChanged)

    @property
    def current(self):
        """Key of the selected row, None when there is none."""
        row = self._widget.currentRow()
        return self.order[row] if 0 <= row < len(self.order) else None

    def fill(self, findings):
        """Show these findings; the selected one stays selected."""
        self._findings = {finding.key: finding for finding in findings}
        self._rows()

    def update(self, finding):
        """Show one finding anew, in its row."""
        self._findings[finding.key] = finding
        if finding.key in self.order:
            self._isFilling = True
            self._write(self.order.index(finding.key), finding)
            self._isFilling = False

    def sortBy(self, column):
        """Sort by a column; a second time, the other way round."""
        self._isReversed = column == self._sortedBy and not self._isReversed
        self._sortedBy = column
        order = qt.Qt.DescendingOrder if self._isReversed else qt.Qt.AscendingOrder
        self._widget.horizontalHeader().setSortIndicator(column, order)
        self._rows()

    def reset(self):
        """Forget findings and order, for another case."""
        self._findings = {}
        self._sortedBy, self._isReversed = 1, True
        self.sortBy(0)

    def filterBy(self, text):
        """Show only rows that hold every one of these words."""
        self._words = text.lower().split()
        self._rows()

    def select(self, key):
        """Select the row of a finding and scroll to it; nobody is told."""
        if key in self.order:
            self._isFilling = True
            self._widget.setCurrentCell(self.order.index(key), 0)
            self._isFilling = False

    def fitColumns(self):
        """Make every column as wide as its content needs."""
        self._widget.resizeColumnsToContents()
        # The longest name would take half of the panel; it is in the tool tip and below the table, too.
        self._widget.setColumnWidth(SUB_REGION, min(self._widget.columnWidth(SUB_REGION), 150))

    def _rows(self):
        current = self.current
        column = COLUMNS[self._sortedBy]
        shown = [finding for finding in self._findings.values() if self._isWanted(finding)]
        shown.sort(key=column.order, reverse=self._isReversed)
        self._isFilling = True
        self._widget.setUpdatesEnabled(False)
        self._widget.setRowCount(len(shown))
        del self._written[len(shown) :]
        self.order = [finding.key for finding in shown]
        for row, finding in enumerate(shown):
            self._write(row, finding)
        if current in self.order:
            self._widget.setCurrentCell(self.order.index(current), 0)
        else:
            self._widget.setCurrentCell(-1, -1)
        self._widget.setUpdatesEnabled(True)
        self._isFilling = False

    def _isWanted(self, finding):
        if not self._words:
            return True
        text = " ".join(column.text(finding) for column in COLUMNS).lower()
        return all(word in text for word in self._words)

    def _write(self, row, finding):
        texts = [column.text(finding) for column in COLUMNS]
        if row == len(self._written):
            self._written.append([None] * len(COLUMNS))
            for column in range(len(COLUMNS)):
                self._widget.setItem(row, column, qt.QTableWidgetItem())
        for column, (before, text) in enumerate(zip(self._written[row], texts, strict=True)):
            if text == before:
                continue
            item = self._widget.item(row, column)
            item.setText(text)
            item.setToolTip(text)
            if column == VERDICT:
                item.setBackground(qt.QBrush(qt.QColor(*MARKER_COLORS[finding.marker])))
                item.setForeground(qt.QBrush(qt.QColor(0, 0, 0)))
        self._written[row] = texts

    def _selectionChanged(self):
        if not self._isFilling and self.current is not None:
            self._onSelected(self.current)
