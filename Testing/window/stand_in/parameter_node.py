"""A stand-in for ``slicer.parameterNodeWrapper`` with the types in use: bool, int, float, str and nodes."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import vtk


@dataclass
class Default:
    value: Any


@dataclass
class WithinRange:
    minimum: float
    maximum: float


class Choice:
    def __init__(self, choices: Any) -> None:
        self.choices = list(choices)


class _Parameter:
    """One typed value in the parameter node: text under its name, or a node reference."""

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        self.name, self.hint = name, hint
        self.type, *self.notes = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        self.is_node = self.type not in (bool, int, float, str)
        if default is None:
            default = next((n.value for n in self.notes if isinstance(n, Default)), None)
        self.default = default if default is not None or self.is_node else self.type()

    def read(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if text == "" and not (self.type is str and self.name in node.GetParameterNamesAsCommaSeparatedList()):
            return self.default
        return text == "True" if self.type is bool else self.type(text)

    def write(self, node: Any, value: Any) -> None:
        if self.is_node:
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        if not isinstance(value, self.type):
            raise TypeError(f"{self.name} is {self.type.__name__}, not {value!r}")
        for note in self.notes:
            if isinstance(note, WithinRange) and not note.minimum <= value <= note.maximum:
                raise ValueError(f"{value} must be within {note.minimum} and {note.maximum}")
            if isinstance(note, Choice) and value not in note.choices:
                raise ValueError(f"{value} is none of {note.choices}")
        node.SetParameter(self.name, str(value))

    def as_property(self) -> property:
        def get(wrapper: Any) -> Any:
            return self.read(wrapper.parameterNode)

        def put(wrapper: Any, value: Any) -> None:
            self.write(wrapper.parameterNode, value)

        return property(get, put)


# Class of a widget: signal, how it is read and written.
_WIDGETS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    "QCheckBox": ("stateChanged(int)", lambda w: w.checked, lambda w, v: setattr(w, "checked", v)),
    "QPushButton": ("toggled(bool)", lambda w: w.checked, lambda w, v: setattr(w, "checked", v)),
    "QSpinBox": ("valueChanged(int)", lambda w: w.value, lambda w, v: setattr(w, "value", v)),
    "QLineEdit": ("textChanged(QString)", lambda w: w.text, lambda w, v: setattr(w, "text", v)),
    "QComboBox": (
        "currentIndexChanged(int)", lambda w: w.currentText, lambda w, v: setattr(w, "currentIndex", w.findText(v)),
    ),
    "ctkSliderWidget": ("valueChanged(double)", lambda w: w.value, lambda w, v: setattr(w, "value", v)),
    "qMRMLNodeComboBox": (
        "currentNodeChanged(vtkMRMLNode*)", lambda w: w.currentNode(), lambda w, v: w.setCurrentNode(v),
    ),
}  # fmt: skip


def parameterNodeWrapper(cls: Any) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}
    for name, parameter in parameters.items():
        setattr(cls, name, parameter.as_property())

    def init(self: Any, node: Any) -> None:
        self.parameterNode = node
        self._updating = False
        self._guis = []  # by tag; None where it was disconnected
        for parameter in parameters.values():
            if not parameter.is_node and parameter.name not in node.GetParameterNamesAsCommaSeparatedList().split(","):
                parameter.write(node, parameter.default)

    def connect_gui(self: Any, gui: Any) -> None:
        widgets = {w.property("SlicerParameterName"): w for w in vars(gui).values()}
        widgets.pop(None, None)
        connect_parameters(self, widgets)  # as in Slicer 5.12, nothing is returned by which to disconnect

    def connect_parameters(self: Any, widgets: Any) -> int:
        tag, receivers = len(self._guis), {}
        for name, widget in widgets.items():
            if name not in parameters:
                raise ValueError(f"Cannot find a param with the given name: {name}")
            signal, read, write = _WIDGETS[widget.className()]
            for note in parameters[name].notes:
                if isinstance(note, WithinRange):
                    widget.minimum, widget.maximum = note.minimum, note.maximum
                if isinstance(note, Choice):
                    widget.clear()
                    for choice in note.choices:
                        widget.addItem(choice)

            def changed(*_unused: Any, name: str = name, widget: Any = widget, read: Any = read) -> None:
                if not self._updating:
                    setattr(self, name, read(widget))

            write(widget, getattr(self, name))
            widget.connect(signal, changed)
            receivers[name] = widget, signal, changed
        self._guis.append(receivers)

        def update(*_unused: Any) -> None:
            if self._updating or self._guis[tag] is None:
                return
            self._updating = True
            try:
                for name, (widget, *_) in receivers.items():
                    _WIDGETS[widget.className()][2](widget, getattr(self, name))
            finally:
                self._updating = False

        self.AddObserver(vtk.vtkCommand.ModifiedEvent, update)
        return tag

    def disconnect_gui(self: Any, tag: Any) -> None:
        if tag is None or self._guis[tag] is None:  # as in Slicer, no error
            return
        for widget, signal, changed in self._guis[tag].values():
            widget.disconnect(signal, changed)
        self._guis[tag] = None

    cls.__init__ = init
    cls.connectGui = connect_gui
    cls.connectParametersToGui = connect_parameters
    cls.disconnectGui = disconnect_gui
    cls.AddObserver = lambda self, event, call, priority=0.0: self.parameterNode.AddObserver(event, call, priority)
    cls.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    cls.StartModify = lambda self: self.parameterNode.StartModify()
    cls.EndModify = lambda self, was: self.parameterNode.EndModify(was)
    cls.Modified = lambda self: self.parameterNode.Modified()
    return cls
