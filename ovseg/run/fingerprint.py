"""Whether a result is still what was written: its size and checksum, and where these differ, whether it is whole.

Before a run's record says that an image is done, its files are on the disk (`Run`), so that a power loss leaves
at most results that the record does not know of. Those, and files that came to harm in other ways, are found here when
the run goes on. What somebody changed by hand is not taken for damage.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ovseg.files import read_index_png
from ovseg.images import read_image
from ovseg.json_files import read_json
from ovseg.run.schema import check_summary

RECENT_SECONDS = 600  # systems write files back within a minute; older ones are told by their size alone


def fingerprint(path: Path) -> str:
    """Size and CRC-32 of a file, "1234 89abcdef". Raises OSError where it cannot be read."""
    content = path.read_bytes()
    return f"{len(content)} {zlib.crc32(content):08x}"


def as_written(path: Path, recorded: str | None, since: float) -> bool:
    """Whether a file is as a record has it: by its size, and if it was written after `since`, by its checksum too.

    recorded: a `fingerprint`; None, of a record of before there were any: the file is not empty. since: a time in
    seconds, as in `st_mtime`. False for a file that is not there.
    """
    try:
        facts = path.stat()
        if recorded is None:
            return facts.st_size > 0
        size = recorded.partition(" ")[0]
        return (
            path.is_file() and size == str(facts.st_size) and (facts.st_mtime < since or fingerprint(path) == recorded)
        )
    except OSError:
        return False


def is_whole(path: Path) -> bool:
    """Whether those who read results can read this one, whatever it says."""
    try:
        if path.name.endswith(".overlay.png"):
            read_image(path)
        elif path.suffix == ".png":
            read_index_png(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                file.keys()
        else:
            check_summary(read_json(path))
    except (ValueError, OSError, SafetensorError):
        return False
    return True
