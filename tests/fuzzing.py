"""What the fuzzers share: how many cases, the seed of each, damaged JSON, and a network that refuses and records.

A fuzzer is a test in a file `test_fuzz_*.py`, which `make fuzz` runs for longer. OVSEG_FUZZ_CASES is the number of
cases of each of them; OVSEG_FUZZ_SEED the first case's seed, so that `OVSEG_FUZZ_CASES=1 OVSEG_FUZZ_SEED=417` repeats
the case that a failure named.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEEP = "@nested deeply@"  # becomes a list in a list, 100,000 levels, which json.dumps would not write
DEPTH = 100_000


def seeds(default: int) -> range:
    """The seeds of a fuzzer's cases: `default` of them, or as many as OVSEG_FUZZ_CASES says."""
    first = int(os.environ.get("OVSEG_FUZZ_SEED", "0"))
    return range(first, first + int(os.environ.get("OVSEG_FUZZ_CASES", default)))


# What may stand in the place of any value: other types, and the ends of each.
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 5, 255, 256, 65536, 2**31, 2**63, 10**9, -(10**9), 10**30),
    *(0.0, -0.0, 0.5, 1.5, 1e-30, 1e9, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
    *("", " ", "None", "nan", "1", "0", "..", "../../evil", "/", "a/b", "\0", "\n", "\x1b[31m", "é", "e\u0301"),
    *("\ud800", "\u202e", "<b>", "=1+1", "{}", "%s", "x" * 1000, "owner/name", "hf-hub:owner/name", DEEP),
    *([], [[]], [None], [0], [1, 2, 3], ["a"], [1e9] * 5, [{}], {}, {"": None}, {"a": {"b": [1]}}, {"0": 0}),
)
STRANGE_KEYS = ("", " ", "a", "0", "__class__", "\0", "é", "\uff41uto_map", "auto_map", "path", "x" * 300)


def damaged(value: Any, random: random.Random, most: int = 3) -> Any:
    """A copy of a JSON value with one to `most` changes, each at a random place. `to_json` writes it."""
    for _ in range(random.randint(1, most)):
        value = _change(copy.deepcopy(value), random)
    return value


def to_json(value: Any) -> str:
    """The text of a value that `damaged` gave, NaN and lone surrogates included."""
    return json.dumps(value).replace(json.dumps(DEEP), "[" * DEPTH + "]" * DEPTH)


def damaged_bytes(content: bytes, random: random.Random) -> bytes:
    """A file's bytes, cut, with some of them other, doubled, or with strange ones put in."""
    at, length = (random.randint(0, len(content)) for _ in range(2))
    strange = random.choice((b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * DEPTH, b'"', b"{", b"}", b",", b"1e999"))
    kind = random.randrange(4)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + random.randbytes(random.randint(1, 8)) + content[at + 8 :]
    if kind == 2:
        return content[:at] + content[at : at + length] + content[at:]
    return content[:at] + strange + content[at:]


def damage_file(path: Path, random: random.Random) -> bytes:
    """Damage a JSON file, one in ten times its bytes and else its values; returns what stood in it."""
    sound = path.read_bytes()
    if random.random() < 0.1:
        path.write_bytes(damaged_bytes(sound, random))
    else:
        path.write_text(to_json(damaged(json.loads(sound), random)), encoding="utf-8")
    return sound


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to each value within a JSON value, its own, (), first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in items for place in places(one, (*path, key)))]


def _change(value: Any, random: random.Random) -> Any:
    # The whole value is one place of many in a large file, and one of three in a small one.
    *outer, last = ("whole", *random.choice(places(value)))
    holder: Any = {"whole": value}
    root = holder
    for key in outer:
        holder = holder[key]
    random.choice(CHANGES)(holder, last, random)
    return root.get("whole")


def _replace(holder: Any, key: Any, random: random.Random) -> None:
    holder[key] = copy.deepcopy(random.choice(STRANGE))


def _delete(holder: Any, key: Any, random: random.Random) -> None:
    del holder[key]


def _scale(holder: Any, key: Any, random: random.Random) -> None:
    """A number near or far from what it was, or a text with something in it."""
    value, other = holder[key], random.choice(STRANGE)
    if isinstance(value, str):
        at = random.randint(0, len(value))
        holder[key] = value[:at] + (other if isinstance(other, str) else "x") + value[at + 1 :]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = random.choice((value + 1, value - 1, -value, value * 10**6, value * 2, value / 2, str(value)))
    else:
        holder[key] = [value]


def _duplicate(holder: Any, key: Any, random: random.Random) -> None:
    """Once more: under a strange key, or as several items."""
    if isinstance(holder, dict):
        holder[random.choice(STRANGE_KEYS)] = copy.deepcopy(holder[key])
    else:
        holder[key:key] = [copy.deepcopy(holder[key]) for _ in range(random.choice((1, 2, 100)))]


def _add(holder: Any, key: Any, random: random.Random) -> None:
    """Something strange beside it or in it."""
    target = holder[key] if isinstance(holder[key], dict) else holder
    if isinstance(target, dict):
        target[random.choice(STRANGE_KEYS)] = copy.deepcopy(random.choice(STRANGE))
    else:
        target.append(copy.deepcopy(random.choice(STRANGE)))


def _wrap(holder: Any, key: Any, random: random.Random) -> None:
    holder[key] = random.choice(([holder[key]], {"a": holder[key]}, [holder[key]] * 2))


CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    *(_replace, _replace, _replace, _delete, _scale, _scale, _duplicate, _add, _wrap),
)


@contextmanager
def refusing_network() -> Iterator[list[str]]:
    """A block in which every connection and name look-up of this process is refused; gives the list of them."""
    asked: list[str] = []

    def refuse(*arguments: Any, **_settings: Any) -> Any:
        asked.append(repr(arguments[1:] if isinstance(arguments[0], socket.socket) else arguments))
        raise OSError(f"a test's network refuses {asked[-1]}")

    kept = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto, socket.getaddrinfo
    socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse  # type: ignore[assignment]
    try:
        yield asked
    finally:
        socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto = kept[:3]  # type: ignore[method-assign]
        socket.getaddrinfo = kept[3]


def check_one_line(error: BaseException, *names: str) -> None:
    """Assert that a message is one line of a length that can be read, printable, and that it holds one of the names."""
    message = str(error)
    assert message.isprintable() and len(message.splitlines()) == 1, repr(message)
    assert len(message) <= 1000, f"{len(message)} characters: {message[:300]!r}"
    assert not names or any(name in message for name in names), f"{message!r} names none of {names}"


@contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """A block that may take `size` bytes more of address space; beyond it, allocations fail. Linux alone."""
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
