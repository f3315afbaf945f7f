"""Standard output and error while a command runs: where one cannot be written any more, this is said, and it goes on.

`ovseg label ... | head -1` closes the pipe after a line, and a disk that fills up takes no more of a log: neither is a
reason to stop labelling.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any

NAMES = {"stdout": "standard output", "stderr": "standard error"}


class Output:
    """A stream that takes everything, and once its own can no longer be written, keeps nothing of it."""

    def __init__(self, stream: Any, name: str) -> None:
        self.stream, self.name = stream, name
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                self.stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self.lost is None and not getattr(self.stream, "closed", False):
            try:
                getattr(self.stream, "flush", lambda: None)()  # one of a notebook or a test may only have `write`
            except OSError as error:
                self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())  # what the stream still holds would fail again when Python ends
            os.close(nowhere)
        if self.name == "stdout" and sys.stderr is not None:
            reason = error.strerror or type(error).__name__
            sys.stderr.write(f"ovseg: {NAMES[self.name]}: {reason}; what else would be shown there is left out\n")


class Outputs:
    """Both streams as `Output`, while this is entered."""

    def __enter__(self) -> Outputs:
        self._outputs = []
        for name in NAMES:
            stream = getattr(sys, name)
            if stream is None:  # closed; otherwise what libraries print would go into the next file that is opened
                stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process
                setattr(sys, name, stream)
            elif isinstance(stream, io.TextIOWrapper) and not stream.closed:  # not a notebook's own
                stream.reconfigure(errors="backslashreplace")  # a file name may hold bytes that no encoding has
            self._outputs.append(Output(stream, name))
            setattr(sys, name, self._outputs[-1])
        return self

    def __exit__(self, *exception: object) -> None:
        for output in self._outputs:
            output.flush()
            if getattr(sys, output.name) is output:
                setattr(sys, output.name, output.stream)

    def code(self, code: int) -> int:
        """The exit code of a command that ended with this one: 1 where it went well, but what it said is lost.

        Not where a reader had enough, as `head` has.
        """
        for output in self._outputs:
            output.flush()
        lost = [output.lost for output in self._outputs if output.lost and output.lost.errno != errno.EPIPE]
        return 1 if lost and code == 0 else code
