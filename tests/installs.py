"""The package built and installed as users have it: wheels and virtual environments of their own, without a network."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("emerdiff", "ovseg", "eval", "prompts", "pocket")
FILES = ("pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
OFFLINE = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")


def copy_sources(to: Path) -> Path:
    """What a wheel is built from; built in the checkout itself it would leave files there that later wheels take in."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, to / name)
    return to


def build_wheel(sources: Path, to: Path) -> Path:
    """The wheel of these sources, built with the setuptools of this environment."""
    succeed([*PIP, "wheel", *OFFLINE, str(sources), "--wheel-dir", str(to)])
    (wheel,) = to.glob("*.whl")
    return wheel


def install(what: list[str], environment: Path) -> Path:
    """A new virtual environment that holds `what` (pip's arguments) and sees the dependencies of this environment.

    The dependencies come by a .pth file that is written last: pip must not find this environment's ovseg, which it
    would uninstall. Of a folder that is named in a .pth file no .pth files are read, so the editable ovseg that may be
    installed in this environment is not seen in the new one.
    """
    succeed([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    python = environment / "bin" / "python"
    packages = Path(succeed([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    borrowed = [link(source, packages) for source in setuptools_files()]
    succeed([*PIP, "--python", str(python), "install", *OFFLINE, *what])
    for path in borrowed:
        path.unlink()
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(seen), encoding="utf-8")
    return environment


def setuptools_files() -> set[Path]:
    """The folders and files of setuptools in this environment's site-packages."""
    distribution = importlib.metadata.distribution("setuptools")
    names = {path.parts[0] for path in distribution.files or ()} - {".."}
    return {path for path in (Path(str(distribution.locate_file(name))) for name in names) if path.exists()}


def link(source: Path, folder: Path) -> Path:
    """A link of the source's name in the folder."""
    path = folder / source.name
    path.symlink_to(source)
    return path


def clean_environment(**more: str) -> dict[str, str]:
    """The variables of this process without those that change what Python imports."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | more


def succeed(command: list[str], cwd: Path | None = None) -> str:
    """Run a command that must end with 0; its stdout."""
    environment = clean_environment(OMP_NUM_THREADS="1")
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
