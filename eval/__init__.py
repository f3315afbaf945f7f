"""Evaluation of label maps on disk against label maps with exact classes.

    from ovseg import eval
    run = eval.predict("pocket", out="runs/emerdiff", preset="pocket", limit=20)
    [result] = eval.score("pocket", run)
    result.metrics["mIoU"]

The names below load on first use: scoring reads files alone and must not wait for the networks' libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovseg.eval.api import predict as predict
    from ovseg.eval.api import score as score
    from ovseg.eval.datasets import open_dataset as open_dataset
    from ovseg.eval.scored import Scored as Scored

_HOMES = {
    "Scored": "ovseg.eval.scored",
    "open_dataset": "ovseg.eval.datasets",
    "predict": "ovseg.eval.api",
    "score": "ovseg.eval.api",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ovseg.eval' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
