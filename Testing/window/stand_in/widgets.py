"""Stand-ins for the ctk and qMRML widgets of the form: their properties and signals, on plain Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from PySide6.QtCore import Property, QEvent, QSize, Qt, Signal
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QStylePainter,
    QToolButton,
    QWidget,
)


class qMRMLWidget(QWidget):
    stand_in = True
    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


class ctkCollapsibleButton(QPushButton):
    """A header that is a button, over contents that it hides."""

    stand_in = True
    contentsCollapsed = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._collapsed = self._is_forcing = False
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self.header_height(), 0, 0)

    def header_height(self) -> int:
        return self.fontMetrics().height() + 8

    def sizeHint(self) -> QSize:
        layout, header = self.layout(), self.header_height()
        if layout is None or self._collapsed:
            return QSize(100, header)
        return layout.totalSizeHint()

    def minimumSizeHint(self) -> QSize:
        layout, header = self.layout(), self.header_height()
        if layout is None or self._collapsed:
            return QSize(50, header)
        return layout.totalMinimumSize()

    def nextCheckState(self) -> None:
        self.set_collapsed(not self._collapsed)

    def childEvent(self, event: Any) -> None:
        if event.added() and isinstance(event.child(), QWidget):
            event.child().installEventFilter(self)
        super().childEvent(event)

    def eventFilter(self, child: Any, event: Any) -> bool:
        """Remember what is shown and hidden while the contents are hidden, as ctk does."""
        if event.type() in (QEvent.Type.ShowToParent, QEvent.Type.HideToParent) and not self._is_forcing:
            child.setProperty("visibilityToParent", event.type() == QEvent.Type.ShowToParent)
            self._show_child(child)
        return super().eventFilter(child, event)

    def _show_child(self, child: QWidget) -> None:
        was, self._is_forcing = self._is_forcing, True
        child.setVisible(not self._collapsed and child.property("visibilityToParent") is not False)
        child.setAttribute(Qt.WidgetAttribute.WA_WState_ExplicitShowHide, False)
        self._is_forcing = was

    def mouseReleaseEvent(self, event: Any) -> None:
        if event.position().y() <= self.header_height():
            super().mouseReleaseEvent(event)

    def set_collapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        for child in self.children():
            if isinstance(child, QWidget):
                self._show_child(child)
        self.setMaximumHeight(self.header_height() if collapsed else 16777215)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    def paintEvent(self, _event: Any) -> None:
        painter, option = QStylePainter(self), QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(self.header_height())
        painter.drawControl(QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QStyleOptionButton()
        arrow.initFrom(self)
        arrow.rect = option.rect.adjusted(6, 6, 0, -6)
        arrow.rect.setWidth(arrow.rect.height())
        shape = QStyle.PrimitiveElement.PE_IndicatorArrowDown
        if self._collapsed:
            shape = QStyle.PrimitiveElement.PE_IndicatorArrowRight
        painter.drawPrimitive(shape, arrow)
        painter.drawText(option.rect.adjusted(26, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, self.text())
        if not self._collapsed:
            painter.setPen(self.palette().mid().color())
            painter.drawRect(self.rect().adjusted(0, self.header_height() // 2, -1, -1))
            painter.drawControl(QStyle.ControlElement.CE_PushButtonBevel, option)
            painter.drawPrimitive(shape, arrow)
            painter.setPen(self.palette().buttonText().color())
            painter.drawText(option.rect.adjusted(26, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, self.text())

    collapsed = Property(bool, lambda self: self._collapsed, set_collapsed)


class qMRMLNodeComboBox(QComboBox):
    """Lists the nodes of a scene. It never selects one by itself when ``noneEnabled`` is set."""

    stand_in = True
    currentNodeChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._types: list[str] = []
        self._none_enabled = False
        self._none_display = "None"
        self._ids: list[str] = []
        self._current = ""
        self._observers: list[int] = []
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.activated.connect(self._chosen)

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._observers:
            self._scene.RemoveObserver(tag)
        self._scene, self._observers = scene, []
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent, scene.EndCloseEvent)
            self._observers = [scene.AddObserver(event, self._update) for event in events]
        self._update()

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        self._select(node if isinstance(node, str) else node.GetID() if node is not None else "")

    def currentNodeID(self) -> str:
        return self._current

    def setCurrentNodeID(self, node_id: str) -> None:
        self._select(node_id)

    def _update(self, *_unused: Any) -> None:
        if self._scene is None or self._scene.IsBatchProcessing():
            return
        nodes = [node for kind in self._types for node in _nodes(self._scene, kind)]
        nodes = [node for node in nodes if not node.GetHideFromEditors() and node.GetClassName() in self._types]
        self._ids = ([""] if self._none_enabled else []) + [node.GetID() for node in nodes]
        self.blockSignals(True)
        self.clear()
        self.addItems(([self._none_display] if self._none_enabled else []) + [node.GetName() for node in nodes])
        self.blockSignals(False)
        fallback = "" if self._none_enabled or not self._ids else self._ids[0]
        self._select(self._current if self._current in self._ids else fallback)

    def _select(self, node_id: str) -> None:
        changed = node_id != self._current
        self._current = node_id
        self.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)
        if changed:
            self.currentNodeChanged.emit(self.currentNode())

    def _chosen(self, index: int) -> None:
        self._select(self._ids[index])

    def _set_types(self, types: list[str]) -> None:
        self._types = list(types)
        self._update()

    nodeTypes = Property("QStringList", lambda s: s._types, _set_types)  # type: ignore[arg-type]
    noneEnabled = Property(bool, lambda s: s._none_enabled, lambda s, v: setattr(s, "_none_enabled", v))
    noneDisplay = Property(str, lambda s: s._none_display, lambda s, v: setattr(s, "_none_display", v))
    addEnabled = Property(bool, lambda s: False, lambda s, v: None)
    removeEnabled = Property(bool, lambda s: False, lambda s, v: None)
    renameEnabled = Property(bool, lambda s: False, lambda s, v: None)
    showChildNodeTypes = Property(bool, lambda s: False, lambda s, v: None)
    showHidden = Property(bool, lambda s: False, lambda s, v: None)


def _nodes(scene: Any, kind: str) -> list[Any]:
    found = scene.GetNodesByClass(kind)
    return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]


class ctkSliderWidget(QWidget):
    """A slider with a spin box, in floating numbers."""

    stand_in = True
    valueChanged = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider, self._box = QSlider(Qt.Orientation.Horizontal, self), QDoubleSpinBox(self)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._slider.valueChanged.connect(lambda step: self._box.setValue(step * self._box.singleStep()))
        self._box.valueChanged.connect(self._moved)
        self._range()

    def _range(self) -> None:
        self._slider.blockSignals(True)
        step = self._box.singleStep()
        self._slider.setRange(round(self._box.minimum() / step), round(self._box.maximum() / step))
        self._slider.setValue(round(self._box.value() / step))
        self._slider.blockSignals(False)

    def _moved(self, value: float) -> None:
        self._range()
        self.valueChanged.emit(value)

    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    def _changed(name: str) -> Callable[[Any, Any], None]:  # type: ignore[misc]
        def change(self: Any, value: Any) -> None:
            getattr(self._box, name)(value)
            self._range()

        return change

    value = Property(float, lambda s: s._box.value(), setValue)
    minimum = Property(float, lambda s: s._box.minimum(), _changed("setMinimum"))
    maximum = Property(float, lambda s: s._box.maximum(), _changed("setMaximum"))
    singleStep = Property(float, lambda s: s._box.singleStep(), _changed("setSingleStep"))
    decimals = Property(int, lambda s: s._box.decimals(), _changed("setDecimals"))
    suffix = Property(str, lambda s: s._box.suffix(), _changed("setSuffix"))


class ctkPathLineEdit(QWidget):
    """A path and a button that browses for one. Unless told otherwise, it is never narrower than the path."""

    stand_in = True
    AdjustToContents, AdjustToContentsOnFirstShow, AdjustToMinimumContentsLength = range(3)
    currentPathChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._filters, self._name_filters = 0, [""]
        self._policy, self._minimum_length = self.AdjustToContentsOnFirstShow, 0
        self._edit, browse = QLineEdit(self), QToolButton(self)
        browse.setText("...")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit, 1)
        layout.addWidget(browse)
        self._edit.textChanged.connect(self.currentPathChanged)
        self._edit.textChanged.connect(self.updateGeometry)

    def minimumSizeHint(self) -> QSize:
        metrics, hint = self._edit.fontMetrics(), super().minimumSizeHint()
        width = self._minimum_length * metrics.horizontalAdvance("X")
        if not self._minimum_length and self._policy != self.AdjustToMinimumContentsLength:
            width = metrics.horizontalAdvance(self._edit.text())
        return QSize(hint.width() - self._edit.minimumSizeHint().width() + width + 8, hint.height())

    sizeAdjustPolicy = Property(int, lambda s: s._policy, lambda s, v: setattr(s, "_policy", v))
    minimumContentsLength = Property(int, lambda s: s._minimum_length, lambda s, v: setattr(s, "_minimum_length", v))
    currentPath = Property(str, lambda s: s._edit.text(), lambda s, v: s._edit.setText(v))
    nameFilters = Property(
        "QStringList",  # type: ignore[arg-type]
        lambda s: s._name_filters,
        lambda s, v: setattr(s, "_name_filters", list(v)),
    )
    filters = Property(int, lambda s: s._filters, lambda s, v: setattr(s, "_filters", v))


STAND_INS = {
    c.__name__: c for c in (qMRMLWidget, ctkCollapsibleButton, qMRMLNodeComboBox, ctkSliderWidget, ctkPathLineEdit)
}


class FormLoader(QUiLoader):
    """Loads a form with the stand-ins in it and makes its connections, of which PySide6 knows only Qt's own."""

    def createWidget(self, class_name: str, /, parent: QWidget | None = None, name: str = "") -> QWidget:
        if class_name not in STAND_INS:
            return super().createWidget(class_name, parent, name)
        widget: QWidget = STAND_INS[class_name](parent)
        widget.setObjectName(name)
        return widget

    def load(self, file: Any) -> QWidget:  # type: ignore[override]
        from PySide6.QtCore import QBuffer, QByteArray

        form = ElementTree.fromstring(bytes(file.readAll().data()))
        connections = form.find("connections")
        wanted = []
        if connections is not None:
            wanted = [[c.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot")] for c in connections]
            form.remove(connections)
        for path in form.iter("widget"):
            if path.get("class") == "ctkPathLineEdit":  # its flags and enumerators are ctk's, which Qt cannot read
                for flags in path.findall("property[@name='filters']"):
                    path.remove(flags)
                for name in path.findall("property/enum"):
                    name.tag, name.text = "number", str(getattr(ctkPathLineEdit, (name.text or "").partition("::")[2]))
        buffer = QBuffer()
        buffer.setData(QByteArray(ElementTree.tostring(form)))
        widget: Any = super().load(buffer)
        for sender, signal, receiver, slot in wanted:
            ends = [widget if widget.objectName() == n else widget.findChild(QWidget, n) for n in (sender, receiver)]
            getattr(ends[0], signal.partition("(")[0]).connect(getattr(ends[1], slot.partition("(")[0]))
        return widget
