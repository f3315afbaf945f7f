"""`ovseg app`: the flags to a session, and the server that shows it."""

from __future__ import annotations

import getpass
import secrets
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.cli import flags
from ovseg.sources import help_lines

if TYPE_CHECKING:
    from ovseg.setup import Setup

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN = 16
OUT = "ovseg-app"  # the folder for results where none is given
EXAMPLES = """\
examples:
  ovseg app                                an empty page: drop photos on it, type names
  ovseg app photos --preset photo          all photos of a folder, small models that come with ovseg
  ovseg app ovseg-labels                   a run of `ovseg label`: look, correct, export
  ovseg app --no-browser --port 9000       print the address alone

The page is served to this machine alone, at an address with a random token. --host 0.0.0.0 serves it to a network,
unencrypted, and needs --token. Results, corrections and photos that are dropped on the page go to --out; a run that is
opened is corrected in place, and its own labels are kept beside the corrections. Ctrl-C ends it.

--by says where masks come from:
"""


def add_app(commands: Any) -> None:
    """Add the command; what it needs is loaded when it is called."""
    parser: ArgumentParser = commands.add_parser(
        "app",
        help="a page to ask, click, correct and export in",
        epilog=EXAMPLES + help_lines(),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run="ovseg.cli.app:run")
    parser.add_argument("path", nargs="?", metavar="PATH", help="a run folder, a folder of images, or an image")
    parser.add_argument("--out", metavar="DIR", help=f"folder for results of images (default {OUT})")
    parser.add_argument("--who", metavar="NAME", help="who corrects, for the record (default your user name)")
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", metavar="H", help="address to serve at (default 127.0.0.1)")
    server.add_argument("--port", type=int, metavar="P", help="port (default the first free one from 8770 on)")
    server.add_argument("--token", metavar="T", help="what the address must hold (default a random one)")
    server.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name under which the page may be asked for"
    )
    server.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    flags.add_models(parser)
    flags.add_masks(parser)
    flags.add_dense(parser)
    flags.add_reading(parser)
    flags.add_method(parser)


def run(given: Namespace) -> int:
    """`ovseg app`; returns the exit code."""
    try:
        import starlette  # noqa: F401 - only looked for
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ovseg app needs {error.name}: pip install 'ovseg[app]'") from error
    from ovseg.app.server import serve
    from ovseg.app.session import Session
    from ovseg.run.folder import record_files
    from ovseg.run.terminal import say, show

    token = _token(given)
    if given.out is not None and given.path is not None and record_files(Path(given.path)):
        raise ValueError(f"out: {given.path} is a run, which is corrected in place; leave --out away")
    given.out = given.out or OUT
    setup, note = _setup(given)
    session = Session.open(setup, given.path, Path(given.out), given.who or _user(), note, tell=say)
    if note:
        say(f"note: {note}")
    names = (*given.allow_host, *((given.host,) if given.host not in ("0.0.0.0", "::") else ()))
    serve(session, token, given.host, given.port, names, browser=not given.no_browser, tell=show)
    return 0


def _token(given: Namespace) -> str:
    """The token asked for, or a random one; ValueError for one that is missing where others can reach the server."""
    if given.token is None:
        if given.host not in LOOPBACK:
            raise ValueError(f"token: missing; at {given.host} others can reach the page, so choose one with --token")
        return secrets.token_urlsafe(24)
    token = str(given.token)
    if len(token) < SHORTEST_TOKEN or not token.replace("-", "").replace("_", "").isalnum() or not token.isascii():
        raise ValueError(f"token: expected at least {SHORTEST_TOKEN} letters, digits, - or _, got {len(token)}")
    return token


def _setup(given: Namespace) -> tuple[Setup, str]:
    """The set-up by the flags, or that of the run that is opened; and what to tell where that cannot be had."""
    from ovseg.cli.setup import MODELS, read_setup
    from ovseg.run.folder import record_files, recorded_facts
    from ovseg.setup import NO_REFINER

    place = Path(given.path) if given.path is not None else Path(given.out)
    given.analyses = None
    if any(getattr(given, name) for name in MODELS) or not record_files(place):
        return read_setup(given, "clip", by=given.by), ""
    given.analyses = str(place)
    decided = recorded_facts(place)  # how its names were decided, which kept analyses leave open
    given.vote = given.vote or decided.get("vote")
    if "vocabulary_sha256" in decided:  # a record of names says nothing of a refiner where there was none
        given.refine = given.refine or decided.get("refine") or NO_REFINER
    try:
        return read_setup(given, "clip", by=given.by), ""
    except ValueError as error:
        given.analyses = None
        setup = read_setup(given, "clip", by=given.by)
        return setup, f"other names would be asked of preset {setup.preset.name}: {error}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
