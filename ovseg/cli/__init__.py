"""The command line. `grammar` has the commands and flags; each command has a file here, loaded when it is called.

Exit codes: 0 all went well, 1 some images failed, 2 a mistake in the call, missing weights or models too large for the
memory (one line says which).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import import_module

from ovseg.cli.streams import Outputs

LONGEST = 900  # characters of a line about a mistake


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    with Outputs() as outputs:
        try:
            return outputs.code(_run(arguments))
        except SystemExit as ended:  # argparse's, after --help or a mistake
            raise SystemExit(outputs.code(ended.code if isinstance(ended.code, int) else 0)) from None


def _run(arguments: Sequence[str] | None) -> int:
    from ovseg.cli.grammar import parser

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
    from ovseg.run.launch import tell_launcher
    from ovseg.run.terminal import one_line, say

    lines = [shortened(one_line(line)) for line in f"ovseg: error: {message}".split("\n")]
    say("\n".join(lines))
    tell_launcher(lines[0])
    return 2


def shortened(line: str) -> str:
    """A line that can be read, whatever was given."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """A library's message about a setting as the command line's: "t_m: ..." -> "--t-m: ...".

    flags: field -> flag.
    """
    field = re.match(r"(\w+): ", message)
    return flags[field[1]] + message[field.end(1) :] if field and field[1] in flags else message
