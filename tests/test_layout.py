"""The house has rooms and arrows one way: which package may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTALLED = {"eval", "ovseg", "emerdiff", "prompts", "pocket"}
ROOMS = INSTALLED | {"bench"}
MAY_IMPORT = {
    "emerdiff": set(),
    "prompts": set(),
    "ovseg": {"emerdiff", "prompts", "pocket"},
    "eval": {"ovseg", "emerdiff", "prompts", "pocket"},
    "bench": {"eval", "ovseg", "emerdiff", "pocket"},
    "pocket": {"prompts"},  # only where it trains; see the next test
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names & ROOMS


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_go_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        front_door = {"eval"} if path == ROOT / "ovseg/cli.py" else set()  # the one command has rooms of all kinds
        assert imported(path) - {room} <= MAY_IMPORT[room] | front_door, path


def test_pocket_imports_nothing_of_ours_at_run_time():
    training = {"locality.py", "data.py", "tokenizer.py", "training.py"}
    paths = [path for path in (ROOT / "pocket").rglob("*.py") if path.name not in training]
    assert not any(imported(path) - {"pocket"} for path in paths if not path.name.startswith("train_"))


def test_the_readme_is_whole_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "@@" not in text
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_file_of_the_packages_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packaged = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    tracked = subprocess.run(
        ["git", "ls-files", *sorted(INSTALLED)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    data = {ROOT / name for name in tracked.stdout.splitlines() if not name.endswith(".py")}
    assert data and data <= packaged
