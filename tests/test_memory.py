"""Chunks, and what happens where a GPU's memory runs out (stood in for: the error is torch's own)."""

from __future__ import annotations

import logging

import pytest
import torch

from emerdiff.memory import Peak, in_chunks, measured, rows_that_fit


def test_chunks_cover_everything_in_order():
    assert in_chunks(7, 3, lambda chunk: list(range(7))[chunk]) == [[0, 1, 2], [3, 4, 5], [6]]
    assert in_chunks(0, 3, lambda chunk: chunk) == []


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no room"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")]
)
def test_running_out_of_memory_halves_the_chunk_and_goes_on(error: RuntimeError, caplog: pytest.LogCaptureFixture):
    tried = []

    def work(chunk: slice) -> list[int]:
        tried.append(chunk.stop - chunk.start)
        if chunk.stop - chunk.start > 2:
            raise error
        return list(range(10))[chunk]

    with caplog.at_level(logging.WARNING):
        found = in_chunks(10, 8, work)
    assert sum(found, []) == list(range(10))
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert [record.message for record in caplog.records] == [
        "out of GPU memory: going on with 4 at a time",
        "out of GPU memory: going on with 2 at a time",
    ]


@pytest.mark.parametrize(
    ("error", "tries"), [(torch.OutOfMemoryError("no room"), [2, 1]), (RuntimeError("shapes differ"), [2])]
)
def test_one_that_does_not_fit_is_an_error_and_so_is_any_other(error: RuntimeError, tries: list[int]):
    tried = []

    def work(chunk: slice) -> None:
        tried.append(chunk.stop - chunk.start)
        raise error

    with pytest.raises(type(error), match=str(error)):
        in_chunks(3, 2, work)
    assert tried == tries


def test_rows_follow_the_free_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    gpu = torch.device("cuda", 0)
    assert rows_that_fit(16, Peak(bytes=100), gpu) == 7  # 0.7 * (900 + 300 - 200) / 100
    assert rows_that_fit(4, Peak(bytes=100), gpu) == 4
    assert rows_that_fit(16, Peak(bytes=5000), gpu) == 1


def test_a_cpu_measures_nothing_and_keeps_its_rows():
    with measured(torch.device("cpu")) as peak:
        torch.ones(10)
    assert peak.bytes is None and rows_that_fit(16, peak, torch.device("cpu")) == 16
