"""What Slicer's PythonQt offers of each widget class: names, properties, signals and slots."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

CLASSES: dict[str, dict] = json.loads(Path(__file__).with_name("widget_api.json").read_text())["classes"]

# Documented by Qt 5.15, but not in what was read from Slicer.
CLASSES["QShortcut"] = {
    "inherits": "QObject",
    "properties": ["autoRepeat", "context", "enabled", "key", "whatsThis"],
    "signals": ["activated()", "activatedAmbiguously()"],
    "slots": [],
    "names": ["setKey", "setContext", "setEnabled", "setWhatsThis"],
}
CLASSES["QMainWindow"] = {
    "inherits": "QWidget", "properties": [], "signals": [], "slots": [], "names": ["setCentralWidget"],
}  # fmt: skip


class Api(NamedTuple):
    """Everything one class offers, inherited things included."""

    names: frozenset[str]
    properties: frozenset[str]
    signals: frozenset[str]


@cache
def api(class_name: str) -> Api:
    """Collect what a class offers; raises KeyError for one that the extract does not hold."""
    entry = CLASSES[class_name]
    if class_name == "QObject":
        parent = Api(frozenset(), frozenset(), frozenset())
    else:
        parent = api(entry["inherits"] or "QObject")
    names = {*entry["names"], *(slot.partition("(")[0] for slot in entry["slots"])}
    names |= {signal.partition("(")[0] for signal in entry["signals"]}
    return Api(parent.names | names, parent.properties | {*entry["properties"]}, parent.signals | {*entry["signals"]})
