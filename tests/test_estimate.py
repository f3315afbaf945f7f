"""What a run says beforehand of its time, worked out by hand from calls that take as long as the test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from emerdiff import EmerDiff, Options
from ovseg import estimate
from ovseg.run import batch

OPTIONS = Options(masks=3, steps=5, base_size=32)


@pytest.fixture(scope="module")
def model(tiny_diffusion: Path) -> EmerDiff:
    return EmerDiff.from_pretrained(tiny_diffusion)


def calls_take(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> list[int]:
    """From here on a call of so many rows takes so long; returns rows of the calls."""
    rows_of_calls: list[int] = []

    def timed(call: Callable[[int], None], rows: int) -> float:
        call(rows)  # it can be done
        rows_of_calls.append(rows)
        return seconds(rows)

    monkeypatch.setattr(estimate, "_seconds", timed)
    return rows_of_calls


def test_a_large_networks_calls_take_as_long_as_their_rows(model: EmerDiff, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = calls_take(monkeypatch, lambda rows: 3.0 * rows)
    cost = model.cost((32, 32), OPTIONS)
    assert cost.unet_rows == 9 and cost.decodes == 0  # queries; 3 and 1; 3 packed and 1
    assert estimate.expected_seconds(model, (32, 32), OPTIONS) == 3 * cost.unet_rows + 3  # the image is encoded
    exact = replace(OPTIONS, speed="exact")
    cost = model.cost((32, 32), exact)
    assert estimate.expected_seconds(model, (32, 32), exact) == 3 * cost.unet_rows + 3 * 6
    assert set(rows) == {1}


def test_a_small_networks_calls_hardly_take_longer_with_more_rows(
    model: EmerDiff, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = calls_take(monkeypatch, lambda rows: 0.1 + 0.025 * rows)  # 4 rows: 0.2 s, 0.05 s each
    cost = model.cost((32, 32), OPTIONS)
    expected = pytest.approx(0.05 * cost.unet_rows + 0.125)  # one image is encoded
    assert estimate.expected_seconds(model, (32, 32), OPTIONS) == expected
    assert max(rows) == 4


def test_naive_masks_take_one_row_and_one_image_encoded(model: EmerDiff, monkeypatch: pytest.MonkeyPatch) -> None:
    calls_take(monkeypatch, lambda rows: 2.0)
    assert estimate.expected_seconds(model, (32, 32), replace(OPTIONS, upsampling="naive")) == 4


@pytest.mark.parametrize(
    ("each", "images", "said"),
    [
        (None, 1000, ""),
        (1.0, 1000, ""),  # the first image is done at once, and says it better
        (20.0, 3, ""),
        (20.0, 4, "this takes about 20.0 s an image on this CPU, 1 min in all\n"),
        (280.0, 30, "this takes about 5 min an image on this CPU, 2.3 h in all\n"),
    ],
)
def test_what_takes_long_is_said(
    each: float | None, images: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    batch.announce_seconds(each, images)
    assert capsys.readouterr().err == said


def test_detail_and_tiles_say_their_cost_always(capsys: pytest.CaptureFixture[str]) -> None:
    batch.announce_seconds(1.0, 1, always=True)
    assert "this takes about 1.0 s an image on this CPU" in capsys.readouterr().err
    batch.announce_seconds(None, 1, always=True)  # not on a CPU
    assert capsys.readouterr().err == ""


def test_a_first_call_that_takes_long_is_not_made_twice(model: EmerDiff, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = calls_take(monkeypatch, lambda rows: 20.0)
    estimate.expected_seconds(model, (32, 32), OPTIONS)
    assert rows == [1, 1]  # the UNet's and the encoder's
