"""What the documents show runs, from any folder: their Python, and the notebook in a real kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from processes import run_script

ROOT = Path(__file__).parent.parent
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}  # of processes beside others


def snippets(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(snippets("README.md"))))
def test_a_snippet_of_the_readme_runs_in_a_folder_with_a_photo(number, tmp_path):
    code, log, folder = snippets("README.md")[number], tmp_path / "log", tmp_path / "folder"
    folder.mkdir()
    shutil.copy(ROOT / "examples/photos/cat.jpg", folder / "photo.jpg")
    if number == 0:  # as a user runs it
        run = subprocess.run([sys.executable, "-c", code], cwd=folder, env=os.environ | QUIET, capture_output=True)
        assert run.returncode == 0, run.stderr.decode()
    else:
        assert run_script(code, folder, log) == 0, log.read_text()
    assert bool(list(folder.rglob("*.png"))) == (".save(" in code)


def test_the_readme_has_snippets():
    assert len(snippets("README.md")) >= 3 and len(snippets("CONTRIBUTING.md")) == 1


def test_the_mask_source_of_contributing_labels_an_image(tmp_path):
    label = f"""
from ovseg.cli import main
image = {str(ROOT / "examples/images/cat-and-horse.png")!r}
raise SystemExit(main(["label", image, "--classes", "cat,horse", "--preset", "pocket", "--by", "squares"]))
"""
    code = snippets("CONTRIBUTING.md")[0] + label
    log = tmp_path / "log"
    assert run_script(code, tmp_path, log) == 0, log.read_text()
    assert (tmp_path / "ovseg-labels/cat-and-horse.masks.png").exists()


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # kept without them
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [kind for cell in notebook.cells for one in cell.get("outputs", []) for kind in one.get("data", {})]
    assert shown.count("image/png") >= 3 and shown.count("text/html") >= 3
