"""The house has rooms and arrows one way: which package may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("emerdiff", "ovseg", "prompts", "eval", "pocket", "bench")  # folders
INSIDE = ("prompts", "eval", "pocket")  # those that are imported as `ovseg.eval`, ...
MAY_IMPORT = {
    "emerdiff": set(),
    "prompts": set(),
    "pocket": set(),
    "ovseg": {"emerdiff", "prompts"},
    "eval": {"ovseg", "emerdiff", "prompts", "pocket"},
    "bench": {"eval", "ovseg", "emerdiff", "pocket"},
}
TRAINING = {"ovseg", "prompts"}  # what pocket's training, which is not installed, may import as well


def room_of(module: str) -> str | None:
    """The room that a dotted name leads to: "ovseg.eval.scoring" is of "eval"."""
    first, _, rest = module.partition(".")
    second = rest.partition(".")[0]
    return second if first == "ovseg" and second in INSIDE else first if first in ROOMS else None


def imported(path: Path) -> list[str]:
    """The dotted names that a file imports, wherever in it it does so."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return modules


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        rooms = {room_of(module) for module in imported(path)} - {None, room}
        assert rooms <= MAY_IMPORT[room] | (TRAINING if "training" in path.parts else set()), path


WINGS = ("towers", "run", "cli", "export", "report", "app")  # folders in ovseg/; its own files are the library
WING_MAY_IMPORT = {
    "towers": set(),
    "": {"towers"},
    "run": {"towers"},
    "export": {"run", "towers"},
    "report": {"run", "towers"},
    "app": {"run", "towers", "export", "report"},
    "cli": {"run", "towers", "export", "report", "app"},
}


@pytest.mark.parametrize("wing", WING_MAY_IMPORT)
def test_wings_are_entered_one_way(wing):
    """Of what a file imports when it is imported: a job looks at export formats when one is asked for."""
    for path in (ROOT / "ovseg" / wing).glob("*.py"):
        if path.name == "__main__.py":
            continue
        statements = ast.parse(path.read_text(encoding="utf-8")).body
        names = [node.module.split(".") for node in statements if isinstance(node, ast.ImportFrom) and node.module]
        entered = {parts[1] for parts in names if parts[0] == "ovseg" and len(parts) > 1 and parts[1] in WINGS}
        assert entered - {wing} <= WING_MAY_IMPORT[wing], path


def test_towers_stand_on_the_ground():
    """What reads CLIP knows nothing of labelling: of the library's own files it takes JSON's reader alone."""
    for path in (ROOT / "ovseg" / "towers").glob("*.py"):
        names = [name.split(".") for name in imported(path) if name.startswith("ovseg.")]
        assert {parts[1] for parts in names} <= {"towers", "json_files"}, path


def test_nothing_in_ovseg_imports_the_pocket_worlds_or_evaluation():
    """They are opened by their name when they are asked for."""
    for path in (ROOT / "ovseg").rglob("*.py"):
        assert not {room_of(module) for module in imported(path)} & {"pocket", "eval"}, path


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_of_a_users_own_file_is_imported(room):
    """In a user's folder `import prompts` is the user's prompts.py."""
    for path in (ROOT / room).rglob("*.py"):
        assert not [name for name in imported(path) if name.partition(".")[0] in INSIDE], path


def test_the_readme_is_whole_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "@@" not in text
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link


def folder_of(package: str, folders: dict[str, str]) -> str:
    """Where a package's files lie: setuptools looks for its longest parent that has a folder of its own."""
    for name, folder in folders.items():
        if package == name or package.startswith(f"{name}."):
            return folder + package.removeprefix(name).replace(".", "/")
    return package.replace(".", "/")


def test_every_file_of_the_packages_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packaged = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (ROOT / folder_of(package, settings["package-dir"])).glob(pattern)
    }
    tracked = subprocess.run(["git", "ls-files", *ROOMS[:-1]], cwd=ROOT, capture_output=True, text=True, check=True)
    data = {ROOT / name for name in tracked.stdout.splitlines() if not name.endswith(".py")}
    assert data and data <= packaged
