"""The house has rooms and arrows one way: which package may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"eval", "ovseg", "emerdiff", "prompts", "pocket"}
MAY_IMPORT = {
    "emerdiff": set(),
    "prompts": set(),
    "ovseg": {"emerdiff", "prompts", "pocket"},
    "eval": {"ovseg", "prompts"},
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
        assert imported(path) - {room} <= MAY_IMPORT[room], path


def test_pocket_imports_nothing_of_ours_at_run_time():
    assert not any(imported(ROOT / "pocket" / name) - {"pocket"} for name in ("world.py", "weights/__init__.py"))
