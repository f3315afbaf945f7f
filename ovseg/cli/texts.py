"""What cannot be the text of any flag: nothing, NUL, what is no UTF-8, and a bucket where a disk is needed."""

from __future__ import annotations

import os

from ovseg.run.bucket import SECRET, holds_password, is_bucket

WORDS = ("classes", "background", "title")  # what is shown as text; elsewhere bytes may be part of a file's name
FREE = (*WORDS, "who", "token", "ray_address")  # what is no place
# Commands -> what of theirs may be an address in a store; every other place is on this machine's disk.
IN_STORES = {
    "label": ("inputs", "out"),
    "masks": ("inputs", "out"),
    "eval predict": ("out",),
    "eval score": ("predictions",),
    "export": ("folder",),
    "report": ("run_folder",),
    "app": ("path",),
}


def wrong_text(field: str, text: str, command: str) -> str:
    """What is wrong with the text given for a command's flag, whichever it is; "" where nothing is."""
    if not text:  # a folder "" would be the working folder, and other flags as if they were not given
        return "expected something, got ''"
    if "\0" in text:
        return "cannot hold NUL"
    if field in WORDS and any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"expected UTF-8 text, got {os.fsencode(text)!r}"
    if field not in FREE and is_bucket(text) and holds_password(text):
        return SECRET
    if field not in (*FREE, *IN_STORES.get(command, ())) and is_bucket(text):
        return f"expected a path, got {text}: this works on a disk alone; copy it to one, and back if need be"
    return ""
