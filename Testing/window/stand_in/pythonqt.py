"""Qt as PythonQt shows it to Python, on PySide6: properties are attributes, signals are connected by signature.

Every object is wrapped, also those that Qt hands back, and a wrapper offers only what `api` says its class offers.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from Testing.window.stand_in.api import CLASSES, api

# Classes without properties or signals, which PythonQt shows as plain values with methods.
VALUES = ("QBrush", "QByteArray", "QColor", "QFile", "QFont", "QIcon", "QKeySequence", "QPalette", "QPixmap",
          "QPoint", "QProcessEnvironment", "QSize", "QSizePolicy", "QTableWidgetItem", "QUrl")  # fmt: skip


def pyside(name: str) -> Any:
    """Find a class of Qt by its name."""
    for module in (QtCore, QtGui, QtWidgets, QtUiTools):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"Qt has no {name}")


def unwrap(value: Any) -> Any:
    """Give Qt its own object for a wrapper; containers are unwrapped, too."""
    if isinstance(value, PythonQtObject):
        return object.__getattribute__(value, "raw")
    if isinstance(value, PythonQtClass):
        return value.pyside
    if isinstance(value, (list, tuple)):
        return [unwrap(item) for item in value]
    return value


def wrap(value: Any) -> Any:
    """Show a value that Qt hands out as PythonQt would."""
    if isinstance(value, QtCore.QObject):
        meta: Any = value.metaObject()
        while meta.className() not in CLASSES:
            meta = meta.superClass()
        return PythonQtObject(value, meta.className())
    if isinstance(value, list):
        return tuple(wrap(item) for item in value)
    return value


class Signal:
    """A signal as an attribute: calling it emits it."""

    def __init__(self, signal: Any) -> None:
        self._signal = signal

    def __call__(self, *arguments: Any) -> None:
        self._signal.emit(*unwrap(arguments))


class PythonQtObject:
    """One QObject, with the attributes that its class has in Slicer and no others."""

    def __init__(self, raw: QtCore.QObject, class_name: str) -> None:
        object.__setattr__(self, "raw", raw)
        object.__setattr__(self, "class_name", class_name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PythonQtObject) and unwrap(self) is unwrap(other)

    def __hash__(self) -> int:
        return hash(unwrap(self))

    def __repr__(self) -> str:
        return f"{object.__getattribute__(self, 'class_name')} ({unwrap(self)!r})"

    def __dir__(self) -> list[str]:
        offered = api(object.__getattribute__(self, "class_name"))
        return sorted(offered.names | offered.properties)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        raw: Any = object.__getattribute__(self, "raw")
        class_name: str = object.__getattribute__(self, "class_name")
        offered = api(class_name)
        if not shiboken6.isValid(raw):
            raise ValueError(f"Trying to access {name} of a {class_name} that was destroyed")
        if name in ("connect", "disconnect"):
            return lambda *arguments: _connect(raw, class_name, name, *arguments)
        if name == "className":
            return lambda: class_name
        if name == "name":
            return raw.objectName()
        if name in offered.properties:
            return wrap(raw.property(name))
        if name not in offered.names:
            raise AttributeError(f"{class_name} has no {name} in Slicer")
        member = getattr(raw, name)
        if isinstance(member, QtCore.SignalInstance):
            return Signal(member)
        if not callable(member) or isinstance(member, type):
            return member
        return lambda *arguments: wrap(member(*unwrap(arguments)))

    def __setattr__(self, name: str, value: Any) -> None:
        class_name: str = object.__getattribute__(self, "class_name")
        if name == "name":
            name = "objectName"
        if name not in api(class_name).properties:
            raise AttributeError(f"Property '{name}' does not exist in {class_name}")
        if not unwrap(self).setProperty(name, unwrap(value)):
            raise ValueError(f"{class_name}.{name} cannot be set to {value!r}")


_connections: dict[tuple[int, str, Any], Any] = {}


def _connect(raw: Any, class_name: str, action: str, signature: str, receiver: Callable | None = None) -> bool:
    if signature not in api(class_name).signals:
        raise ValueError(f"{class_name} has no signal {signature} in Slicer")
    name, _, arguments = signature.partition("(")
    signal = getattr(raw, name)
    types_ = [t for t in arguments.rstrip(")").split(",") if t]
    if types_ and not hasattr(raw, "stand_in"):
        with suppress(KeyError, IndexError):  # only one overload
            signal = signal[",".join(types_)]
    key = (shiboken6.getCppPointer(raw)[0], signature, receiver)
    if action == "disconnect":
        for found in [k for k in _connections if k[:2] == key[:2] and receiver in (None, k[2])]:
            signal.disconnect(_connections.pop(found))
        return True
    assert receiver is not None

    def deliver(*values: Any) -> None:
        receiver(*(wrap(value) for value in values[: len(types_)]))

    _connections[key] = deliver
    raw.destroyed.connect(lambda *_: _connections.pop(key, None))
    signal.connect(deliver)
    return True


class PythonQtClass(type):
    """A class of Qt: calling it makes a wrapped object; attributes are enumerators and static methods."""

    pyside: Any

    def __call__(cls, *arguments: Any) -> Any:
        return wrap(cls.pyside(*unwrap(arguments)))

    def __getattr__(cls, name: str) -> Any:
        if name not in api(cls.__name__).names:
            raise AttributeError(f"{cls.__name__} has no {name} in Slicer")
        member = getattr(cls.pyside, name)
        if name in ("getOpenFileName", "getSaveFileName"):  # PythonQt gives the file alone
            return lambda *arguments: member(*unwrap(arguments))[0]
        if callable(member) and not isinstance(member, type) and not hasattr(member, "value"):
            return lambda *arguments: wrap(member(*unwrap(arguments)))
        return member


def class_of(name: str, raw: Any) -> Any:
    """Make the class through which Python sees a class of Qt or of the stand-ins."""
    return PythonQtClass(name, (), {"pyside": raw})


class Module(types.ModuleType):
    """A module such as ``qt``, which knows only what Slicer offers."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.__name__} has no {name} in this stand-in; add it if Slicer has it")


def qt_module(loader: Any) -> Module:
    """Make ``qt``, with the given class as its QUiLoader."""
    module = Module("qt")
    for name in CLASSES:
        if name.startswith("Q") and name != "QUiLoader":
            setattr(module, name, class_of(name, pyside(name)))
    for name in VALUES:
        setattr(module, name, pyside(name))
    module.stand_in = Keyboard  # type: ignore[attr-defined]
    module.Qt = QtCore.Qt  # type: ignore[attr-defined]
    module.QUiLoader = class_of("QUiLoader", loader)  # type: ignore[attr-defined]
    return module


class Keyboard:
    """Real key events, which PythonQt does not offer; ``qt.stand_in`` for the fixture ``press`` alone."""

    @staticmethod
    def key_click(window: Any, key: str) -> None:
        from PySide6.QtTest import QTest

        raw = unwrap(window)
        raw.activateWindow()
        focus = QtWidgets.QApplication.focusWidget() or raw
        combination: Any = next(iter(QtGui.QKeySequence(key)))  # type: ignore[call-overload]
        QTest.keyClick(focus, combination.key(), combination.keyboardModifiers())
