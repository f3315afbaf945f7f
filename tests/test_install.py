"""Installed from a wheel and editable, in a folder with files of the user's that have the names of our folders."""

from __future__ import annotations

import ast
import json
import shutil
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from installs import FOLDERS, ROOT, build_wheel, copy_sources, install, succeed

import ovseg.eval
import ovseg.pocket
import ovseg.prompts
from ovseg.files import read_index_png

PHOTO = ROOT / "examples" / "images" / "cat-and-horse.png"
NAMES = ["background", "cat", "horse"]
ARGUMENTS = ["--preset", "pocket", "--classes", "cat,horse", "--masks", "8"]
INSTALLS = ("wheel", "editable")
SCRIPT = """
import importlib, pkgutil, sys
import emerdiff, ovseg
for package in (emerdiff, ovseg):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and "training" not in module.name:
            importlib.import_module(module.name)
segmenter = ovseg.Segmenter.from_preset("pocket", device="cpu")
result = segmenter.label(ovseg.read_image("photo.png"), "cat,horse")
print([sys.prefix, ovseg.__file__, list(result.names)])
"""
NOTEBOOK = """
import json, nbclient, nbformat
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(open("script.py").read())])
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
(output,) = [output for output in notebook.cells[0].outputs if output.get("name") == "stdout"]
print(output["text"])
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environments(sources: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Virtual environments by the way ovseg was installed into them."""
    what = {"wheel": [str(wheel)], "editable": ["--editable", str(sources)]}
    return {name: install(what[name], tmp_path_factory.mktemp(name) / "environment") for name in INSTALLS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: a photo and files of the user's own, none of which may be run."""
    shutil.copy(PHOTO, tmp_path / "photo.png")
    (tmp_path / "prompts").mkdir()
    for name in ("eval.py", "prompts/__init__.py", "pocket.py", "bench.py"):
        (tmp_path / name).write_text('raise SystemExit("a file of the user was run")\n')
    return tmp_path


def test_the_wheel_holds_the_files_of_the_folders_and_no_training_code(sources: Path, wheel: Path) -> None:
    expected = {
        f"{name if name in ('emerdiff', 'ovseg') else f'ovseg/{name}'}/{path.relative_to(sources / name).as_posix()}"
        for name in FOLDERS
        for path in (sources / name).rglob("*")
        if path.is_file() and "training" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {name.partition("/")[0] for name in held} == {"emerdiff", "ovseg"}
    assert {
        "ovseg/__main__.py",
        "ovseg/eval/published.json",
        "ovseg/prompts/words-background.txt",
        "ovseg/pocket/weights/clip/open_clip_model.safetensors",
        "ovseg/pocket/weights/diffusion/unet/diffusion_pytorch_model.safetensors",
    } <= held


def test_the_wheel_holds_the_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        licences = metadata.replace("METADATA", "licenses/")
        held = {name.removeprefix(licences) for name in archive.namelist() if name.startswith(licences)}
    glyphs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pocket" / "glyphs" / "licenses").glob("*.txt")}
    words = "pocket/weights/namer/LICENSE-wordnet.txt"
    assert glyphs and held == {"LICENSE", "pocket/glyphs/LICENSE", words} | glyphs


def is_inside(file: str, install: str, environment: Path, sources: Path) -> bool:
    """Whether a module is the installed one: the wheel's lies in its environment, an editable one in the sources."""
    return Path(file).is_relative_to(environment if install == "wheel" else sources)


def check_labels(out: Path, id: str) -> None:
    """What `ovseg label` wrote about the photo: a map of 128x128 in which cat and horse were found."""
    labels = read_index_png(out / f"{id}.png")
    assert labels.shape == (128, 128) and set(np.unique(labels)) == {0, 1, 2}
    record = json.loads((out / f"{id}.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in record["classes"]] == NAMES


SLOW = pytest.mark.slow


def test_the_tests_run_this_checkout() -> None:
    """The folders are found by the install, ovseg by pytest's pythonpath: they must not be of two checkouts."""
    for module, name in ((ovseg, "ovseg"), (ovseg.eval, "eval"), (ovseg.prompts, "prompts"), (ovseg.pocket, "pocket")):
        assert Path(str(module.__file__)).parent == ROOT / name, "run `pip install -e .` in this checkout"


def test_an_empty_folder_of_the_packages_name(environments: dict[str, Path], folder: Path) -> None:
    """It hides neither install from the command, nor a wheel from `python -m`.

    From `python -m` and scripts it hides an editable install: setuptools' finder is asked after the working folder.
    """
    (folder / "ovseg").mkdir()
    for environment in environments.values():
        assert "usage: ovseg" in succeed([str(environment / "bin" / "ovseg"), "--help"], cwd=folder)
    python = str(environments["wheel"] / "bin" / "python")
    assert "usage: ovseg" in succeed([python, "-m", "ovseg", "--help"], cwd=folder)


@pytest.mark.parametrize("install", [pytest.param("wheel", marks=pytest.mark.slow), "editable"])
def test_the_command(install: str, environments: dict[str, Path], folder: Path) -> None:
    command = str(environments[install] / "bin" / "ovseg")
    succeed([command, "label", "photo.png", *ARGUMENTS, "--out", "out"], cwd=folder)
    check_labels(folder / "out", "photo")


@pytest.mark.parametrize("install", ["wheel", pytest.param("editable", marks=SLOW)])
def test_python_m(install: str, environments: dict[str, Path], folder: Path) -> None:
    python = str(environments[install] / "bin" / "python")
    succeed([python, "-m", "ovseg", "label", "photo.png", *ARGUMENTS, "--out", "out"], cwd=folder)
    check_labels(folder / "out", "photo")


@pytest.mark.slow
@pytest.mark.parametrize("install", INSTALLS)
def test_torchrun(install: str, environments: dict[str, Path], folder: Path) -> None:
    (folder / "photos").mkdir()
    for id in ("a", "b"):
        shutil.copy(PHOTO, folder / "photos" / f"{id}.png")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    python = str(environments[install] / "bin" / "python")
    torchrun = [python, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    succeed([*torchrun, "-m", "ovseg", "label", "photos", *ARGUMENTS, "--out", "out"], cwd=folder)
    assert {path.name for path in (folder / "out").glob("run*")} == {"run-1-of-2.json", "run-2-of-2.json"}
    for id in ("a", "b"):
        check_labels(folder / "out", id)


@pytest.mark.parametrize("install", ["wheel", pytest.param("editable", marks=SLOW)])
def test_a_script_that_imports_every_module(
    install: str, environments: dict[str, Path], sources: Path, folder: Path
) -> None:
    (folder / "script.py").write_text(SCRIPT)
    printed = succeed([str(environments[install] / "bin" / "python"), "script.py"], cwd=folder)
    check_printed(printed, install, environments[install], sources)


@pytest.mark.slow
@pytest.mark.parametrize("install", INSTALLS)
def test_a_notebook(install: str, environments: dict[str, Path], sources: Path, folder: Path) -> None:
    """A kernel of the environment's own runs the script's lines in the user's folder."""
    (folder / "script.py").write_text(SCRIPT)
    printed = succeed([str(environments[install] / "bin" / "python"), "-c", NOTEBOOK], cwd=folder)
    check_printed(printed, install, environments[install], sources)


def check_printed(printed: str, install: str, environment: Path, sources: Path) -> None:
    """What the script says: the environment it ran in, where its ovseg lies, and the names of the result."""
    prefix, file, names = ast.literal_eval(printed.strip().splitlines()[-1])
    assert Path(prefix) == environment and is_inside(file, install, environment, sources)
    assert names == NAMES
