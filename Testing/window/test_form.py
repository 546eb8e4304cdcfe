"""The module asks of its widgets only what Slicer's PythonQt offers, and the form names only what is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from Testing.window.stand_in.api import CLASSES, api

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "CMBDetector" / "CMBDetector.py", *sorted((ROOT / "CMBDetector" / "CMBDetectorWindow").glob("*.py"))]
FORM = ElementTree.parse(ROOT / "CMBDetector" / "Resources" / "UI" / "CMBDetector.ui").getroot()
WIDGETS = {widget.get("name", ""): widget.get("class", "") for widget in FORM.iter("widget")}

# What the module calls the objects of Qt that it makes or is handed.
NAMED = {
    "_process": "QProcess", "process": "QProcess", "_later": "QTimer", "_clock": "QTimer", "_deadline": "QTimer",
    "_settled": "QTimer",
    "header": "QHeaderView", "_widget": "QTableWidget", "widget": "QWidget", "button": "QPushButton",
}  # fmt: skip
IN_FILE = {("table.py", "widget"): "QTableWidget", ("keys.py", "key"): "QShortcut"}


def class_of(source: Path, owner: ast.expr) -> str | None:
    """Class of the widget that an expression names; None where it names none."""
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    if isinstance(owner, ast.Attribute) and ast.unparse(owner.value) in ("self.ui", "ui"):
        return WIDGETS.get(name)
    return IN_FILE.get((source.name, name)) or NAMED.get(name)


def accesses() -> Iterator[tuple[str, str, str]]:
    """(place, class, attribute) of every attribute that the module takes of a widget."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Attribute) and (class_name := class_of(source, node.value)):
                yield f"{source.name}:{node.lineno}", class_name, node.attr


def connections() -> Iterator[tuple[str, str, str]]:
    """(place, class, signature) of every connection that the module makes."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "connect"
                and isinstance(node.args[0], ast.Constant)
            ):
                continue
            if class_name := class_of(source, node.func.value):
                yield f"{source.name}:{node.lineno}", class_name, str(node.args[0].value)


ACCESSES, CONNECTIONS = list(accesses()), list(connections())


@pytest.mark.parametrize(("place", "class_name", "attribute"), ACCESSES, ids=[f"{p}-{a}" for p, _, a in ACCESSES])
def test_slicer_offers_what_the_module_takes_of_a_widget(place: str, class_name: str, attribute: str) -> None:
    offered = api(class_name)
    assert attribute in offered.names | offered.properties | {"connect", "disconnect"}, place


@pytest.mark.parametrize(("place", "class_name", "signature"), CONNECTIONS, ids=[f"{p}-{s}" for p, _, s in CONNECTIONS])
def test_slicer_offers_every_signal_that_the_module_connects(place: str, class_name: str, signature: str) -> None:
    assert signature in api(class_name).signals, place


def test_what_is_held_against_slicer_is_most_of_the_module() -> None:
    assert len(ACCESSES) > 120 and len(CONNECTIONS) > 15


def test_every_text_that_looks_like_a_signal_is_one() -> None:
    known = {signal for name in CLASSES for signal in api(name).signals} | {"startupCompleted()"}
    written = {
        node.value
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and re.fullmatch(r"\w+\([\w:*,<> ]*\)", str(node.value))
    }
    assert "finished(int,QProcess::ExitStatus)" in written
    assert written <= known


def test_slicer_offers_what_the_module_takes_of_the_layout_manager() -> None:
    text = "\n".join(source.read_text() for source in SOURCES)
    taken = {*re.findall(r"(?:layoutManager\(\)|\bmanager)\.(\w+)", text)}
    offered = api("qSlicerLayoutManager")
    assert taken >= {"layoutLogic", "setLayout"} and taken <= offered.names | offered.properties


def test_no_signal_is_connected_in_another_way() -> None:
    for source in SOURCES:
        assert not re.search(r"\.\w+\.connect\(self|\.\w+\.connect\(lambda", source.read_text()), source.name


@pytest.mark.parametrize("widget", list(FORM.iter("widget")), ids=lambda widget: str(widget.get("name")))
def test_slicer_offers_every_property_in_the_form(widget: ElementTree.Element) -> None:
    class_name = str(widget.get("class"))
    assert class_name in CLASSES
    own = {prop.get("name") for prop in widget.findall("property") if prop.get("stdset") != "0"}
    assert own <= api(class_name).properties


def test_every_widget_that_the_module_names_is_in_the_form() -> None:
    named = {name for source in SOURCES for name in re.findall(r"\bui\.(\w+)", source.read_text())}
    assert named and named <= {*WIDGETS}


def test_every_word_of_the_library_that_the_panel_shows_can_be_translated() -> None:
    from CMBDetectorLib.candidate import PhaseEvidence
    from CMBDetectorLib.regions import SUB_REGIONS, Region, Side
    from CMBDetectorLib.review import SHORTCUTS, Marker
    from CMBDetectorLib.stages import STAGES

    words = ast.parse((ROOT / "CMBDetector" / "CMBDetectorWindow" / "words.py").read_text())
    literal = {node.value for node in ast.walk(words) if isinstance(node, ast.Constant)}
    assert literal >= {value.value for kind in (Marker, Region, Side, PhaseEvidence) for value in kind}
    assert literal >= {sub.name for sub in SUB_REGIONS} | {key.description for key in SHORTCUTS}
    assert literal >= {stage.title for stage in STAGES.values()}


def test_the_same_word_is_looked_up_only_once(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from CMBDetectorWindow import words

    asked: list[str] = []

    def tr(text: str) -> str:
        asked.append(text)
        return text.upper()

    monkeypatch.setattr(words, "_", tr)
    assert [words.translated("a word of nobody") for _ in range(2)] == 2 * ["A WORD OF NOBODY"]
    assert asked == ["a word of nobody"]


def test_the_form_is_made_of_the_sections_that_readers_know() -> None:
    sections = [w for w in FORM.iter("widget") if w.get("class") == "ctkCollapsibleButton"]
    titles = [w.findtext("property[@name='text']/string") for w in sections]
    assert titles == ["Inputs", "Detect", "Review", "Export", "Advanced"]
    assert sections[-1].findtext("property[@name='collapsed']/bool") == "true"
    assert "styleSheet" not in ElementTree.tostring(FORM, "unicode")


def test_every_parameter_of_the_form_is_one_of_the_parameter_node(panel: Any) -> None:
    bound = {p.findtext("string") for p in FORM.iter("property") if p.get("name") == "SlicerParameterName"}
    assert bound == {"swi", "phase", "force", "device", "polarity", "zoomMm", "slabMm", "subRegions"}
    for name in bound:
        getattr(panel._parameterNode, str(name))


def test_settings_offer_what_the_library_takes(panel: Any) -> None:
    from CMBDetectorLib.request import DEVICES, POLARITIES

    for box, values in ((panel.ui.deviceComboBox, DEVICES), (panel.ui.polarityComboBox, POLARITIES)):
        assert tuple(box.itemText(index) for index in range(box.count)) == values


# Sizes


def form_of(panel: Any) -> Any:
    """The form alone: Slicer puts a section of its own above it for developers."""
    return panel.ui.inputsCollapsibleButton.parent()


def test_nothing_is_cut_off_in_a_narrow_panel(panel: Any, case: Any, application: Any) -> None:
    panel.ui.exportPathEdit.currentPath = f"{Path.home()}{20 * '/a folder'}/table.csv"
    application.app.processEvents()
    assert form_of(panel).minimumSizeHint.width() <= 400
    for name in WIDGETS:
        widget = getattr(panel.ui, name, None)
        if widget is not None and WIDGETS[name] in ("QPushButton", "QCheckBox") and widget.visible:
            assert widget.width >= min(widget.minimumSizeHint.width(), 400), name


def test_a_panel_as_high_as_a_small_screen_needs_no_scroll_bar_around_that_of_the_table(panel: Any, case: Any) -> None:
    assert form_of(panel).heightForWidth(400) <= 900
