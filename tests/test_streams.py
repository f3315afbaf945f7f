"""Standard output and error as they come: closed, or of a class that only knows `write`."""

from __future__ import annotations

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.run.terminal import PlainReport, is_terminal, make_report, say, show

ROOT = Path(__file__).parent.parent


class WriteOnly:
    """A stream with nothing but `write`, as some applications set it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


def shell(arguments: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """`python -m ovseg` in a shell with a redirection such as ">&-"."""
    line = f"exec {shlex.join([sys.executable, '-m', 'ovseg', *arguments])} {redirection}"
    return subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_costs_only_what_would_be_said_there(closed: str) -> None:
    listed = shell(["models"], closed)
    assert listed.returncode == 0 and listed.stderr == ""
    assert listed.stdout.startswith("sd14-vitb16 (default)\t") if closed == "2>&-" else listed.stdout == ""
    mistaken = shell(["models", "fetch", "nothing"], closed)
    assert mistaken.returncode == 2 and mistaken.stdout == ""
    expected = "ovseg: error: preset: no preset 'nothing'; there are sd14-vitb16, photo, pocket\n"
    assert mistaken.stderr == (expected if closed == ">&-" else "")
    unknown = shell(["models", "--nonsense"], closed)
    assert unknown.returncode == 2 and unknown.stdout == "" and "Traceback" not in unknown.stderr


def label_command(folder: Path, diffusion: Path, clip: Path, out: str) -> list[str]:
    """A quick `ovseg label` of an image that is fine and one that is not."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "bad.png").write_text("no image")
    models = ["--diffusion", str(diffusion), "--clip", str(clip), "--masks", "2", "--steps", "5", "--device", "cpu"]
    images = [str(folder / "a.png"), str(folder / "bad.png")]
    return ["label", *images, "--classes", "cat,sky", *models, "--out", str(folder / out)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def test_a_run_without_any_stream_writes_the_same_files(tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path) -> None:
    assert main(label_command(tmp_path, tiny_diffusion, tiny_clip, "open")) == 1  # bad.png
    done = shell(label_command(tmp_path, tiny_diffusion, tiny_clip, "closed"), "<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert contents(tmp_path / "closed") == contents(tmp_path / "open") != {}


IN_A_NOTEBOOK = """
import io, sys
class WriteOnly:
    def __init__(self): self.text = ""
    def write(self, text): self.text += text
screen = sys.stdout
for stream in (io.StringIO(), WriteOnly()):
    sys.stdout = sys.stderr = stream
    from ovseg.cli import main
    codes = main(["models"]), main(["models", "fetch", "nothing"])
    text = stream.getvalue() if isinstance(stream, io.StringIO) else stream.text
    print(codes, text.count("sd14-vitb16 (default)"), text.count("ovseg: error: preset: no preset"), file=screen)
"""


def test_the_command_line_is_called_from_a_program_with_streams_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_NOTEBOOK], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == "" and done.stdout == "(0, 2) 1 1\n" * 2


def test_a_run_and_a_report_need_no_more_than_write(
    tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = WriteOnly(), WriteOnly()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(label_command(tmp_path, tiny_diffusion, tiny_clip, "out")) == 1
    assert out.text.startswith("[1/2] a: ") and "[2/2] bad: failed: " in err.text
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "report.html: 1 image, " in out.text


def test_lines_go_nowhere_where_a_stream_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        say("a note")
        show("a result")
        assert not is_terminal(stream)
        with make_report(0, 1) as report:
            assert isinstance(report, PlainReport)


def test_what_is_asked_of_a_stream_is_whether_it_is_a_terminal() -> None:
    terminal, pipe = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    assert is_terminal(terminal) and not is_terminal(pipe) and not is_terminal(WriteOnly())


class Full:
    """A stream whose disk is full, or whose reader has gone, after so many characters."""

    def __init__(self, room: int, number: int) -> None:
        self.room, self.error, self.text = room, OSError(number, os.strerror(number)), ""

    def write(self, text: str) -> int:
        if len(self.text) + len(text) > self.room:
            raise self.error
        self.text += text
        return len(text)


@pytest.mark.parametrize(("number", "code"), [(errno.EPIPE, 0), (errno.ENOSPC, 1)])
def test_a_run_goes_on_where_its_lines_go_nowhere(
    number: int, code: int, tmp_path: Path, tiny_diffusion: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = label_command(tmp_path, tiny_diffusion, tiny_clip, "out")
    arguments.remove(str(tmp_path / "bad.png"))
    err, before = WriteOnly(), Full(0, number)
    monkeypatch.setattr(sys, "stdout", before)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(arguments) == code and sys.stdout is before
    lines = [line for line in err.text.splitlines() if "standard output" in line]
    assert lines == [f"ovseg: standard output: {os.strerror(number)}; what else would be shown there is left out"]
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".png"} and "results in" in err.text


def test_readers_that_leave_early_and_full_disks_end_in_order() -> None:
    listed = shell(["models"], "| head -1")
    assert (listed.returncode, listed.stderr.count("\n")) in ((0, 0), (0, 1)) and "Traceback" not in listed.stderr
    for arguments in (["models"], ["--help"], ["--version"]):
        full = shell(arguments, ">/dev/full")
        assert full.returncode == 1 and full.stderr.splitlines() == [
            "ovseg: standard output: No space left on device; what else would be shown there is left out"
        ]
    assert shell(["models", "fetch", "nothing"], "2>/dev/full").returncode == 2


def test_terminal_codes_and_lines_of_others_are_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    show("a\tb\nc\x1b[2J\u202e\x07")
    say("café \u3000می\u200cخواهم")  # a wide space and a joiner are part of what is read
    printed = capsys.readouterr()
    assert printed.out == "a\tb\nc\\x1b[2J\\u202e\\x07\n" and printed.err == "café \u3000می\u200cخواهم\n"
