"""The command line. `grammar` has the commands and flags; each command has a file here, loaded when it is called.

Exit codes: 0 all went well, 1 some images failed, 2 a mistake in the call, missing weights or models too large for the
memory (one line says which).
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from ovseg.cli.grammar import parser

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed; otherwise what libraries print would go into the next file that is opened
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
        elif isinstance(stream, io.TextIOWrapper) and not stream.closed:  # not a notebook's own
            stream.reconfigure(errors="backslashreplace")  # a file name may hold bytes that no encoding has
    given = parser().parse_args(arguments)
    # Their progress bars and advice would hide our own messages.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # Otherwise idle OpenMP threads spin, and take the cores from other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        module, function = given.run.split(":")
        return int(getattr(import_module(module), function)(given))
    except (ValueError, OSError) as error:
        return fail(in_flags(str(error), given.flags))
    except (MemoryError, RuntimeError) as error:
        from emerdiff.memory import is_out_of_memory
        from ovseg.run.attempt import OUT_OF_MEMORY

        if not is_out_of_memory(error):
            raise
        return fail(OUT_OF_MEMORY if "dtype" in given else "out of memory")
    except KeyboardInterrupt:
        from ovseg.run.terminal import say

        say("ovseg: interrupted")
        return 130


def fail(message: str) -> int:
    """Report a mistake in the call; returns the exit code."""
    from ovseg.run.terminal import one_line, say

    say("\n".join(map(one_line, f"ovseg: error: {message}".split("\n"))))
    return 2


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """A library's message about a setting as the command line's: "t_m: ..." -> "--t-m: ...".

    flags: field -> flag.
    """
    field = re.match(r"(\w+): ", message)
    return flags[field[1]] + message[field.end(1) :] if field and field[1] in flags else message
