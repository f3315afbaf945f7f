"""The one thread that owns the models. Long tasks wait for each other; quick ones go between their steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

MOST_WAITING = 64  # tasks; more are refused, so that a flood neither fills the memory nor delays the next for hours


class Cancelled(Exception):
    """The user, or the end of the server, stopped a long task."""


class Busy(RuntimeError):
    """Too many tasks wait already."""


class Worker:
    """A thread with two queues. `submit` may be called from any thread; the tasks run in this one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._quick: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._long: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._cancel = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="ovseg-models", daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], Any], *, quick: bool = False) -> Future[Any]:
        """Have a task done; its result or error is in the future. quick: before and between long ones.

        Raises `Busy` where too many wait, or the server ends.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._ended or len(self._quick) + len(self._long) >= MOST_WAITING:
                raise Busy("the models are busy with other requests; try again in a moment")
            (self._quick if quick else self._long).append((task, future))
            self._changed.notify()
        return future

    def cancel(self) -> None:
        """Stop the long task at hand at its next step."""
        self._cancel.set()

    def between(self) -> None:
        """Called by a long task between its steps: does the quick ones. Raises `Cancelled` where it is to stop."""
        while (item := self._take(self._quick)) is not None:
            _run(*item)
        if self._cancel.is_set():
            raise Cancelled

    def stop(self, seconds: float = 10.0) -> bool:
        """Cancel what runs, refuse what waits, and end the thread; whether it ended in that time."""
        with self._changed:
            self._ended = True
            waiting = [future for _, future in (*self._quick, *self._long)]
            self._quick.clear()
            self._long.clear()
            self._changed.notify()
        self._cancel.set()
        for future in waiting:
            future.cancel()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _take(
        self, tasks: deque[tuple[Callable[[], Any], Future[Any]]]
    ) -> tuple[Callable[[], Any], Future[Any]] | None:
        with self._changed:
            return tasks.popleft() if tasks else None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._quick or self._long)
                if self._ended:
                    return
                long = not self._quick
                item = (self._quick or self._long).popleft()
                if long:
                    self._cancel.clear()
            _run(*item)


def _run(task: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(task())
    except BaseException as error:  # whatever it is, who asked is told, and the thread goes on
        future.set_exception(error)
