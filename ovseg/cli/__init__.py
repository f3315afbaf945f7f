"""The command line. `grammar` says what may be typed; each command has a file here, loaded once it is asked for.

Exit codes: 0 all went well, 1 some images failed, 2 a mistake in the call, missing weights or models too large for the
memory (one line says which).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from ovseg.cli.grammar import parser

    for stream in (sys.stdout, sys.stderr):  # a file name may hold bytes that no encoding has
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = parser().parse_args(arguments)
    # Their loading bars and advice would bury our own lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        module, function = options.run.split(":")
        return int(getattr(import_module(module), function)(options))
    except (ValueError, OSError) as error:
        print(f"ovseg: error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from emerdiff.memory import is_out_of_memory
        from ovseg.run.batch import OUT_OF_MEMORY

        if not is_out_of_memory(error):
            raise
        print(f"ovseg: error: {OUT_OF_MEMORY if 'dtype' in options else 'out of memory'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ovseg: interrupted", file=sys.stderr)
        return 130
