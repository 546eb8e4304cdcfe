"""Slicer's application: ``slicer.app`` and ``slicer.modules`` with what the module may use, and nothing else."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import slicer

from Testing.mrml_scene import start_scene

ROOT = Path(__file__).resolve().parents[3]


class Strict:
    """Raises on whatever it was not taught."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no {name} in this stand-in; add it if Slicer has it")


class Application(Strict):
    """``slicer.app``."""

    def __init__(self, qt_application: Any, logic: Any) -> None:
        self._qt, self._logic = qt_application, logic
        self._layout_manager = LayoutManager(logic)
        self._module_manager = ModuleManager()
        self._window: Any = None
        self._at_start: list[Any] = []

    applicationName = "Slicer"

    def applicationLogic(self) -> Any:
        return self._logic

    def layoutManager(self) -> LayoutManager:
        return self._layout_manager

    def moduleManager(self) -> ModuleManager:
        return self._module_manager

    def processEvents(self) -> None:
        self._qt.processEvents()

    def clipboard(self) -> Any:
        from Testing.window.stand_in.pythonqt import wrap

        return wrap(self._qt.clipboard())

    def commandOptions(self) -> Any:
        return type("CommandOptions", (), {})()

    def exit(self, status: int) -> None:
        sys.exit(status)

    def testingEnabled(self) -> bool:
        return True  # as by CTest: Slicer's own boxes stay away, so nothing may depend on them

    def topLevelWidgets(self) -> Any:
        from Testing.window.stand_in.pythonqt import wrap

        return wrap(list(self._qt.topLevelWidgets()))

    def setOverrideCursor(self, cursor: Any) -> None:
        self._qt.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        self._qt.restoreOverrideCursor()

    def connect(self, signal: str, receiver: Any) -> None:
        assert signal == "startupCompleted()", signal
        self._at_start.append(receiver)

    def startup_completed(self) -> None:
        for receiver in self._at_start:
            receiver()


class LayoutManager(Strict):
    """Makes the slice views of a layout as nodes with their logics, as Slicer does; nothing is drawn."""

    def __init__(self, application_logic: Any) -> None:
        import vtk

        self._slice_logics = vtk.vtkCollection()
        application_logic.SetSliceLogics(self._slice_logics)
        self._application_logic = application_logic
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slicer.mrmlScene.AddObserver(slicer.mrmlScene.EndCloseEvent, lambda *_: self._make_logics())

    def layoutLogic(self) -> Any:
        return self._logic

    @property
    def layout(self) -> int:
        return self._logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, layout: int) -> None:
        self._logic.GetLayoutNode().SetViewArrangement(layout)
        self._make_logics()

    def sliceViewNames(self) -> tuple[str, ...]:
        views = self._logic.GetViewNodes()
        nodes = [views.GetItemAsObject(index) for index in range(views.GetNumberOfItems())]
        return tuple(n.GetLayoutName() for n in nodes if n.IsA("vtkMRMLSliceNode"))

    def _make_logics(self) -> None:
        for name in self.sliceViewNames():
            if self._application_logic.GetSliceLogicByLayoutName(name) is None:
                logic = slicer.vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(self._application_logic)
                logic.SetMRMLScene(slicer.mrmlScene)
                logic.SetSliceNode(slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode"))
                logic.GetSliceNode().SetDimensions(400, 300, 1)
                self._slice_logics.AddItem(logic)


class ModuleManager(Strict):
    def __init__(self) -> None:
        self.receivers: list[Any] = []

    def connect(self, signal: str, receiver: Any) -> None:
        assert signal == "moduleAboutToBeUnloaded(QString)", signal
        self.receivers.append(receiver)

    def disconnect(self, signal: str, receiver: Any) -> None:
        assert signal == "moduleAboutToBeUnloaded(QString)", signal
        self.receivers.remove(receiver)

    def unload(self, name: str) -> None:
        """Unload a module as Slicer does when it exits; a panel that was given up before has nothing to do then."""
        assert len(self.receivers) <= 1, f"{len(self.receivers)} panels would be cleaned up"
        for receiver in [*self.receivers]:
            receiver(name)


class ModuleParent(Strict):
    """What Slicer gives to the class of a scripted module."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)


class CoreModule(Strict):
    """``slicer.modules.markups`` and the like."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


class ScriptedModule(Strict):
    """``slicer.modules.cmbdetector``: makes the panel when it is first asked for, as Slicer does."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, str(path)
        self._representation: Any = None
        sys.path.append(str(path.parent))
        self._describe()

    def _describe(self) -> None:
        source = importlib.import_module(self.name)
        getattr(source, self.name)(ModuleParent(Path(self.path)))

    def widgetRepresentation(self) -> Any:
        if self._representation is None:
            self._representation = Representation(getattr(sys.modules[self.name], f"{self.name}Widget"))
        return self._representation

    def reload(self) -> None:
        """Load it anew as Slicer does: the old panel is cleaned up, the new one set up, and none is entered."""
        del sys.modules[self.name]
        self._describe()
        if self._representation is not None:
            was_shown = getattr(slicer, "shown_module", None) is self._representation
            self._representation.self()._onModuleAboutToBeUnloaded(self.name)
            self._representation.parent.deleteLater()
            self._representation = None
            if was_shown:
                slicer.shown_module = self.widgetRepresentation()


def show_in_window(panel: Any) -> None:
    """Put a panel into the window, where it scrolls when it is higher, as in Slicer."""
    from PySide6.QtCore import Qt
    from PySide6.QtWidgets import QFrame, QScrollArea

    from Testing.window.stand_in.pythonqt import unwrap

    area = QScrollArea()
    area.setObjectName("ScrollArea")
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidgetResizable(True)
    area.setWidget(unwrap(panel))
    unwrap(slicer.util.mainWindow()).setCentralWidget(area)


class Representation(Strict):
    """The panel of a scripted module in the window."""

    def __init__(self, widget_class: Any) -> None:
        import qt

        self.parent = slicer.qMRMLWidget()
        self.parent.setLayout(qt.QVBoxLayout())
        self.parent.setMRMLScene(slicer.mrmlScene)
        show_in_window(self.parent)
        self._python = widget_class(self.parent)
        self._python.setup()

    def self(self) -> Any:
        return self._python


class Modules(Strict):
    """``slicer.modules``."""


def select_module(name: str) -> None:
    """Show the panel of a module, as the module selector does; "" shows another module."""
    shown = getattr(slicer, "shown_module", None)
    wanted = getattr(slicer.modules, name.lower()).widgetRepresentation() if name in slicer.scripted_modules else None
    if shown is wanted:
        return
    if shown is not None:
        shown.self().exit()
    slicer.shown_module = wanted
    if wanted is not None:
        wanted.self().enter()


def _keep_singletons() -> None:
    """Keep None, True and False alive on Python before 3.12.

    PySide6 6.12 returns them without counting the reference, as if they were immortal, which they are since 3.12;
    before, a few thousand calls end the process ("deallocating None").
    """
    if sys.version_info < (3, 12):
        for singleton in (None, True, False):
            ctypes.c_ssize_t.from_address(id(singleton)).value += 1 << 40


def start() -> None:
    """Start it once: afterwards ``import qt, slicer`` finds what the module needs."""
    _keep_singletons()
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkOSOpenGLRenderWindow")
    from PySide6.QtCore import QSettings
    from PySide6.QtWidgets import QApplication, QMainWindow

    from Testing.window.stand_in import scripted_module
    from Testing.window.stand_in.pythonqt import Module, class_of, qt_module, wrap
    from Testing.window.stand_in.widgets import STAND_INS, FormLoader

    qt_application = QApplication.instance() or QApplication(["Slicer"])
    settings = tempfile.TemporaryDirectory(prefix="CMBDetector-settings-")  # nobody's own
    atexit.register(settings.cleanup)
    QSettings.setDefaultFormat(QSettings.Format.IniFormat)
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, settings.name)
    qt_application.setOrganizationName("NA-MIC")
    sys.modules["qt"] = qt_module(FormLoader)
    ctk = sys.modules["ctk"] = Module("ctk")
    for name, raw in STAND_INS.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, class_of(name, raw))

    started = start_scene()
    slicer.modules = Modules()
    for name, module_logic in started.logics.items():
        setattr(slicer.modules, name.lower(), CoreModule(module_logic))
    slicer.app = Application(qt_application, started.application_logic)
    scripted_module.install()

    window = QMainWindow()
    window.setObjectName("qSlicerMainWindow")
    window.resize(1200, 900)
    window.show()
    slicer.app._window = wrap(window)

    module = ScriptedModule("CMBDetector", ROOT / "CMBDetector" / "CMBDetector.py")
    slicer.scripted_modules = {"CMBDetector": module}
    slicer.modules.cmbdetector = module
    slicer.util.modulePath = lambda name: slicer.scripted_modules[name].path
    slicer.util.reloadScriptedModule = lambda name: slicer.scripted_modules[name].reload()
    slicer.util.selectModule = select_module
    slicer.app.startup_completed()
