"""The project keeps its own rules: packaging lists, rooms and their imports, documentation.

Run as a program, it writes the lists of CMakeLists.txt and the table of files in docs/architecture.md from the tree.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "CMBDetectorLib"
MODULE = ROOT / "CMBDetector"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
README = (ROOT / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def files_in(folder: Path) -> list[str]:
    """Every file of a folder, relative to the repository, without what Python leaves behind."""
    return sorted(
        f.relative_to(ROOT).as_posix()
        for f in folder.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts and not f.name.startswith(".")
    )


MODULE_SCRIPTS = [f for f in files_in(MODULE) if f.endswith(".py")]
LIBRARY_SCRIPTS = [f for f in files_in(LIBRARY) if f.endswith(".py")]
LIBRARY_RESOURCES = sorted({*files_in(LIBRARY), *files_in(ROOT / "Resources")} - {*LIBRARY_SCRIPTS})


# Packaging


def cmake_list(cmake: Path, name: str) -> list[str]:
    found = re.search(rf"set\({name}\s([^)]*)\)", cmake.read_text())
    assert found, f"{cmake.name} has no list {name}"
    return found[1].replace("${MODULE_NAME}", "CMBDetector").split()


@pytest.mark.parametrize(
    ("name", "tree"), [("LIBRARY_SCRIPTS", LIBRARY_SCRIPTS), ("LIBRARY_RESOURCES", LIBRARY_RESOURCES)]
)
def test_slicer_packages_every_file_of_the_library_and_no_other(name: str, tree: list[str]) -> None:
    assert cmake_list(ROOT / "CMakeLists.txt", name) == tree, "run `python Testing/library/test_project.py`"


def test_no_text_about_the_extension_is_a_list_to_cmake() -> None:
    texts = re.findall(r'set\(EXTENSION_\w+\s+"([^"]*)"\)', (ROOT / "CMakeLists.txt").read_text())
    assert texts and not [text for text in texts if ";" in text]  # CPack would keep what is before it


def test_slicer_packages_every_file_of_the_module_and_no_other() -> None:
    listed = cmake_list(MODULE / "CMakeLists.txt", "MODULE_SCRIPTS") + cmake_list(
        MODULE / "CMakeLists.txt", "MODULE_RESOURCES"
    )
    tree = [f.removeprefix("CMBDetector/") for f in files_in(MODULE)]
    assert sorted(listed) == [f for f in tree if f != "CMakeLists.txt"]


def test_a_wheel_holds_every_package_and_every_resource() -> None:
    setuptools = PYPROJECT["tool"]["setuptools"]
    packages = {Path(f).parent.as_posix().replace("/", ".") for f in LIBRARY_SCRIPTS}
    assert {*setuptools["packages"]} == packages | {"CMBDetectorLib.Resources"}
    packaged = {
        f.relative_to(ROOT).as_posix()
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for f in (ROOT / setuptools["package-dir"].get(package, package.replace(".", "/"))).glob(pattern)
    }
    assert packaged >= {*LIBRARY_RESOURCES}


def test_every_dependency_has_a_tested_version() -> None:
    project = PYPROJECT["project"]
    required = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[\[<>=;]", r)[0].lower() for r in required} - {project["name"]}
    pinned = {p.split("==")[0].lower() for p in (ROOT / "constraints.txt").read_text().splitlines() if "==" in p}
    assert names <= pinned


def test_both_icons_are_one_picture() -> None:
    icon = (ROOT / "CMBDetector.png").read_bytes()
    assert icon == (MODULE / "Resources" / "Icons" / "CMBDetector.png").read_bytes()


# Rooms and imports


def imports(file: Path, *, at_file_scope: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; for ``from a.b import c`` both ``a.b`` and ``a.b.c``."""
    tree = ast.parse(file.read_text())
    for node in tree.body if at_file_scope else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{file} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floors() -> dict[str, int]:
    """Floor of each room, ``networks/`` or ``volume.py``, as docs/architecture.md states it."""
    rows = re.findall(r"^\| (\d) \|(.*)\|.*\|$", ARCHITECTURE, re.MULTILINE)
    return {room: int(floor) for floor, rooms in rows for room in re.findall(r"`([^`]+)`", rooms)}


def room_of(script: str) -> str:
    inside = script.removeprefix("CMBDetectorLib/")
    return inside.split("/")[0] + "/" if "/" in inside else inside


def test_every_room_has_a_floor() -> None:
    assert {*floors()} == {room_of(script) for script in LIBRARY_SCRIPTS}


@pytest.mark.parametrize("script", LIBRARY_SCRIPTS)
def test_no_room_imports_from_a_floor_above(script: str) -> None:
    for name in imports(ROOT / script):
        path = name.replace(".", "/")
        imported = next((s for s in (f"{path}.py", f"{path}/__init__.py") if s in LIBRARY_SCRIPTS), None)
        if imported:
            assert floors()[room_of(imported)] <= floors()[room_of(script)], f"{script} imports {name}"


@pytest.mark.parametrize("script", LIBRARY_SCRIPTS)
def test_the_library_knows_no_window_and_only_scene_knows_slicer(script: str) -> None:
    foreign = {"qt", "ctk", "PySide6", "PyQt5"} | (set() if room_of(script) == "scene/" else {"slicer", "vtk"})
    assert not foreign & {name.split(".")[0] for name in imports(ROOT / script)}


@pytest.mark.parametrize("script", MODULE_SCRIPTS)
def test_the_module_loads_without_the_packages_that_slicer_lacks(script: str) -> None:
    allowed = {*sys.stdlib_module_names, "slicer", "vtk", "qt", "ctk", "numpy"}
    if script != "CMBDetector/CMBDetector.py":  # these are imported when the panel is made
        allowed |= {"CMBDetectorLib", "CMBDetectorWindow"}
    assert {name.split(".")[0] for name in imports(ROOT / script, at_file_scope=True)} <= allowed


def test_what_the_panel_uses_of_the_library_needs_neither_torch_nor_scikit_image() -> None:
    used = {name for script in MODULE_SCRIPTS for name in imports(ROOT / script) if name.startswith("CMBDetectorLib")}
    modules = sorted(n for n in used if f"{n.replace('.', '/')}.py" in LIBRARY_SCRIPTS)
    assert "CMBDetectorLib.scene.case" in modules and "CMBDetectorLib.preflight" in modules
    program = f"import sys, {', '.join(modules)}; sys.exit(bool({{'torch', 'skimage'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_the_command_line_starts_without_torch() -> None:
    modules = "CMBDetectorLib.__main__, CMBDetectorLib.report, CMBDetectorLib.volume, CMBDetectorLib.preflight"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


# Documentation


def file_table(scripts: list[str]) -> str:
    """Every file with the first sentence of its docstring, as rows of a table."""
    rows = []
    for script in scripts:
        if not script.endswith("__init__.py"):
            docstring = ast.get_docstring(ast.parse((ROOT / script).read_text())) or ""
            summary = " ".join(docstring.split("\n\n")[0].split())
            sentence = re.split(r"\. (?=[A-Z])", summary)[0].replace("``", "`").removesuffix(".")
            rows.append(f"| `{script.partition('/')[2]}` | {sentence} |")
    return "\n".join(rows)


@pytest.mark.parametrize("scripts", [LIBRARY_SCRIPTS, MODULE_SCRIPTS], ids=["library", "module"])
def test_the_architecture_describes_every_file(scripts: list[str]) -> None:
    assert f"|---|---|\n{file_table(scripts)}\n\n" in ARCHITECTURE, "run `python Testing/library/test_project.py`"


def test_every_other_place_that_the_architecture_names_exists() -> None:
    named = {*re.findall(r"`((?:\w+/)+[\w.]*|\w+\.(?:py|md|txt))`", ARCHITECTURE)}
    absent = [name for name in named if not any((base / name).exists() for base in (ROOT, LIBRARY, MODULE))]
    assert not absent


def test_every_local_link_of_the_readme_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_every_make_target_of_the_readme_exists() -> None:
    targets = {*re.findall(r"make (\w+)", README)}
    assert targets <= {*re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)}


def test_every_option_of_the_readme_exists() -> None:
    options = {*re.findall(r"(?<![\w-])(--[a-z-]+)", README)}
    ask = [sys.executable, "-m", "CMBDetectorLib", "detect", "--help"]
    answer = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert options and not [option for option in options if option not in answer]


def test_the_readme_lists_the_keys_as_they_are() -> None:
    from CMBDetectorLib.review import SHORTCUTS

    table = README.partition("| Key |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(.+)` \| (.+) \|$", table, re.MULTILINE) == [(s.key, s.description) for s in SHORTCUTS]


def test_the_readme_names_every_file_of_a_result() -> None:
    from CMBDetectorLib.report.write import FILES

    table = README.partition("| The folder holds")[2].partition("## ")[0]
    assert {*re.findall(r"`([\w.]+)`", table)} == {*FILES}


def test_the_tutorial_scan_is_the_one_that_slicer_is_told_of() -> None:
    scan = next((ROOT / "Resources" / "SampleData").glob("*/swi.nii.gz")).parent
    digests = [hashlib.sha256((scan / name).read_bytes()).hexdigest() for name in ("swi.nii.gz", "phase.nii.gz")]
    told = re.findall(r'"([0-9a-f]{64})"', (MODULE / "CMBDetector.py").read_text())
    assert told == digests


def test_the_tutorial_scan_is_whole() -> None:
    cases = [case.parent for case in (ROOT / "Resources" / "SampleData").glob("*/truth.json")]
    assert cases
    for case in cases:
        assert (case / "swi.nii.gz").is_file() and (case / "phase.nii.gz").is_file()
        assert json.loads((case / "truth.json").read_text())["lesions"]


if __name__ == "__main__":
    cmake = ROOT / "CMakeLists.txt"
    lists = cmake.read_text()
    for name, tree in (("LIBRARY_SCRIPTS", LIBRARY_SCRIPTS), ("LIBRARY_RESOURCES", LIBRARY_RESOURCES)):
        lists = re.sub(rf"set\({name}\s[^)]*\)", "\n  ".join([f"set({name}", *tree, ")"]), lists)
    cmake.write_text(lists)
    parts = re.split(r"(?<=\| file \| what it holds \|\n\|---\|---\|\n)", ARCHITECTURE)
    for index, scripts in ((1, LIBRARY_SCRIPTS), (2, MODULE_SCRIPTS)):
        parts[index] = file_table(scripts) + "\n\n" + parts[index].partition("\n\n")[2]
    (ROOT / "docs" / "architecture.md").write_text("".join(parts))
    print(f"{len(LIBRARY_SCRIPTS)} scripts, {len(LIBRARY_RESOURCES)} resources.")
