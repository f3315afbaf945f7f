"""The hub: what a repository holds, and its files; every way in which it can fail has a line of its own.

Whatever goes wrong is a `WeightsMissing`. Loads the hub's client when it is used, and no torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from emerdiff.settings import show

LOG = logging.getLogger(__name__)
DEADLINE = "OVSEG_HUB_SECONDS"  # the environment's: how long the hub may take to answer, name look-up included
SECONDS = 15.0  # where it does not say
PATIENCE = 3.0  # seconds without a word
LONGER = f"{DEADLINE}=60 waits longer"
LOGIN = "`hf auth login`, or HF_TOKEN in the environment"
Result = TypeVar("Result")


class WeightsMissing(OSError):
    """Weights that are neither in a folder nor in the hub's cache, and cannot be fetched now."""


class Unreachable(WeightsMissing):
    """The hub did not answer: without a network, say, or by a mirror that is slow."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: the hub does not answer ({reason}); with a network, the same command goes on")
        self.reason = reason


class Busy(Exception):
    """The hub asks to be left alone for longer than anybody wants to wait."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def deadline() -> float:
    """Seconds in which the hub has to answer. Raises ValueError for a setting that is none."""
    said = os.environ.get(DEADLINE, "")
    try:
        seconds = float(said or SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise ValueError(f"{DEADLINE}: expected a number of seconds above 0 in the environment, got {show(said)}")
    return seconds


def files_of(source: str) -> frozenset[str]:
    """The paths of a repository's files. Raises `Unreachable` without an answer, `WeightsMissing` for any other."""

    def ask() -> frozenset[str]:
        from huggingface_hub import HfApi

        info: Any = HfApi().model_info(source)  # None where nothing is known of the files
        return frozenset(one.rfilename for one in getattr(info, "siblings", None) or ())

    return _within(deadline(), source, ask)


def download(source: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Fetch the files of these patterns into the hub's cache; returns their folder. Raises `WeightsMissing`.

    What an earlier call left half done is gone on with.
    """
    from huggingface_hub import snapshot_download

    try:
        with _no_long_waits():
            return Path(
                snapshot_download(
                    source, revision=revision, allow_patterns=list(patterns), etag_timeout=max(1, deadline())
                )
            )
    except Exception as error:  # the hub client's errors share no base class
        raise _failure(source, error, "the download broke off") from error


def _within(seconds: float, source: str, ask: Callable[[], Result]) -> Result:
    """What `ask` returns, in at most so many seconds.

    In a thread, because no timeout of the client covers a name look-up that hangs, or several addresses in turn.
    """
    answers: list[Result] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # the hub client's errors share no base class
            errors.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(min(seconds, PATIENCE))
    if thread.is_alive() and seconds > PATIENCE:
        LOG.warning("%s: waiting for the hub, %g seconds at most (%s)", source, seconds, DEADLINE)
        thread.join(seconds - PATIENCE)
    if answers:
        return answers[0]
    if errors:
        raise _failure(source, errors[0], "the hub cannot be asked") from errors[0]
    raise Unreachable(source, f"no answer within {seconds:g} seconds; {LONGER}")


@contextmanager
def _no_long_waits() -> Iterator[None]:
    """A block in which answers that ask for a longer wait than the deadline are an error, and not slept through."""
    from huggingface_hub import get_session

    most = deadline()
    client: Any = get_session()
    hooks = client.event_hooks

    def look(response: Any) -> None:
        after = response.headers.get("retry-after", "")
        if response.status_code in (429, 503) and after.isdigit() and int(after) > most:
            raise Busy(int(after))

    client.event_hooks = {**hooks, "response": [*hooks.get("response", []), look]}
    try:
        yield
    finally:
        client.event_hooks = hooks


def _failure(source: str, error: Exception, what: str) -> WeightsMissing:
    """The line for an error of the hub's client, with what helps."""
    from huggingface_hub import errors

    answer: Any = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    if isinstance(error, Busy) or status == 429:
        after = error.seconds if isinstance(error, Busy) else answer.headers.get("retry-after")
        wait = f"for {after} seconds" if after else "for a while"
        return WeightsMissing(
            f"{source}: the hub asks to wait {wait}, too many requests; try later, or log in: {LOGIN}"
        )
    if isinstance(error, errors.GatedRepoError):
        return WeightsMissing(
            f"{source}: a gated repository; accept its terms on its page, then log in: {LOGIN}; or choose another model"
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.DisabledRepoError):
        return WeightsMissing(
            f"{source}: the hub has no such repository, or a private one; check how it is spelled, and for a private "
            f"one log in: {LOGIN}"
        )
    if status in (401, 403):
        return WeightsMissing(f"{source}: the hub refuses the token ({status}); log in anew: {LOGIN}")
    if status is not None and status >= 500:
        return WeightsMissing(f"{source}: the hub itself fails ({status}); try later, or set HF_ENDPOINT to a mirror")
    if status is None and _is_network(error):
        return Unreachable(source, _reason(error))
    return WeightsMissing(f"{source}: {what} ({_reason(error)}); the same command goes on from there")


def _is_network(error: BaseException) -> bool:
    """Whether no connection came about, or the hub may not be asked (HF_HUB_OFFLINE)."""
    names = {kind.__name__ for one in (error, error.__cause__) if one is not None for kind in type(one).__mro__}
    return bool(names & {"ConnectError", "ConnectTimeout", "OfflineModeIsEnabled", "ProxyError", "gaierror"})


def _reason(error: BaseException) -> str:
    """One short line of an exception that may be a page long."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
