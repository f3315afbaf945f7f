"""A set-up: mistakes show when it is made, it travels between processes, and an earlier run's record makes one."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emerdiff import Options
from ovseg.presets import PRESETS, Preset
from ovseg.setup import Setup, find_device, setup_of
from ovseg.towers.clip import Clip
from ovseg.towers.view import View

OWN = Preset(name="", diffusion="a/b", clip="c/d")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"by": "watershed"},
            "by: no mask source 'watershed', expected one of emerdiff, naive, attention, diffcut, slic, none, files",
        ),
        ({"by": "files"}, "masks_from: missing"),
        ({"by": "slic", "masks_from": "masks"}, "masks_from: is for by files, got by slic"),
        ({"dense": "maskclip2"}, "dense: no variant 'maskclip2', expected one of maskclip"),
        ({"dtype": "float64"}, "dtype: expected one of float32, float16, bfloat16, got 'float64'"),
        ({"settings": {"masks": 0}}, "masks: expected at least 1, got 0"),
        ({"settings": {"mask": 3}}, "mask: no such setting, expected one of .*masks"),
        ({"settings": {"upsampling": "naive"}}, "upsampling: no such setting"),
        ({"settings": {"masks": "three"}}, "masks: expected a whole number, got .three."),
        ({"settings": {"speed": "slow"}}, "speed: expected one of fast, exact, got 'slow'"),
    ],
)
def test_mistakes_show_when_it_is_made(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Setup(**fields)
    assert "\n" not in str(caught.value)


def test_it_can_be_sent_to_another_process_and_be_a_key() -> None:
    setup = Setup(PRESETS["pocket"], "slic", settings={"masks": 7}, dense="sclip", device="cpu")
    back = pickle.loads(pickle.dumps(setup))
    assert back == setup and hash(back) == hash(setup) and back.options(None) == setup.options(None)
    assert replace(setup, settings={"masks": 8}) != setup


def test_options_are_the_presets_with_the_settings_over_them() -> None:
    pocket = PRESETS["pocket"]
    assert Setup(pocket).options(None) == pocket.options
    assert Setup(pocket, settings={"masks": 3}).options(None) == replace(pocket.options, masks=3)
    assert Setup(OWN).options(None) == Options()


def test_options_and_fields_may_be_given_together() -> None:
    setup = Setup.of("pocket", {"masks": 3, "by": "slic", "device": "cpu", "dense": "sclip"})
    assert setup == Setup(PRESETS["pocket"], "slic", None, {"masks": 3}, "sclip", "cpu")
    assert Setup.of(OWN, {}) == Setup(OWN)
    with pytest.raises(ValueError, match="no preset 'sd15'"):
        Setup.of("sd15", {})


def test_models_that_are_not_named_are_refused() -> None:
    assert Setup(OWN).sources("diffusion", "clip") == {"diffusion": "a/b", "clip": "c/d"}
    with pytest.raises(ValueError, match="clip: missing; without a preset every model must be named"):
        Setup(Preset("", "a/b", "")).sources("diffusion", "clip")
    assert Setup(OWN, "slic").needs == Setup(OWN, "none").needs == ()
    assert Setup(OWN).needs == Setup(OWN, "naive").needs == ("diffusion",)


def test_views_are_the_presets_the_clips_own_or_the_records(tiny_clip: Path) -> None:
    clip = Clip.from_pretrained(tiny_clip)
    assert Setup(PRESETS["pocket"]).view(clip) == View(384)
    assert Setup(PRESETS["pocket"], dense="naclip").view(clip) == View(384, variant="naclip")
    assert Setup(OWN).view(clip) == View(48, 32, 16)
    recorded = {"view": {"short_side": 40, "window": 0, "stride": 0, "variant": "sclip", "long_side": 0}}
    assert Setup(OWN, recorded=recorded).view(clip) == View(40, variant="sclip")


FACTS = {
    "command": "label",
    "by": "emerdiff",
    "preset": "pocket",
    "models": {"diffusion": "d@1", "clip": "c@1"},
    "sources": {"diffusion": "there/d", "clip": "there/c"},
    "options": {"masks": 12, "seed": 3, "upsampling": "modulated"},
    "view": {"short_side": 128, "window": 128, "stride": 64, "variant": "sclip", "long_side": 0},
    "dtype": "bfloat16",
}


def test_the_set_up_of_a_record() -> None:
    setup = setup_of(FACTS, {}, device="cpu")
    expected = Setup(PRESETS["pocket"], "emerdiff", None, {"masks": 12, "seed": 3}, "sclip", "cpu", "bfloat16", FACTS)
    assert setup == expected
    assert setup_of(FACTS, {"masks": 12}).recorded == FACTS
    other = setup_of(FACTS, {"masks": 5})
    assert other.settings == {"masks": 5, "seed": 3} and other.recorded is None  # its model is needed
    assert setup_of(FACTS, {}, by="slic", dtype="float32", dense="naclip").dense == "naclip"


def test_the_set_up_of_a_record_of_models_without_a_preset() -> None:
    setup = setup_of(FACTS | {"preset": None}, {})
    assert setup.preset == Preset("", "there/d", "there/c")
    clip_alone = FACTS | {"preset": None, "by": "none", "models": {"clip": "c@1"}, "sources": {"clip": "there/c"}}
    assert setup_of(clip_alone | {"options": None}, {}) == Setup(
        Preset("", "", "there/c"), "none", dense="sclip", dtype="bfloat16"
    )


def test_the_set_up_of_a_record_of_files_and_of_true_masks() -> None:
    files = FACTS | {"by": "files", "options": {"masks_from": "/masks"}, "models": {"clip": "c@1"}}
    assert (setup_of(files, {}).by, setup_of(files, {}).masks_from) == ("files", "/masks")
    assert setup_of(files, {}, by="slic").masks_from is None
    assert setup_of(FACTS | {"by": "truth"}, {}, by="none").by == "none"
    with pytest.raises(ValueError, match="by: the run's masks are by truth, which is no source here"):
        setup_of(FACTS | {"by": "truth"}, {})
    with pytest.raises(ValueError, match="analyses: a run of `ovseg masks` keeps none"):
        setup_of({"command": "masks"}, {})


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Setup(device="auto").find_device() == torch.device("cpu")
    for name in ("tpu", "meta", "cuda", "", "hpu", "privateuseone", "ipu", "cuda:99", "cpu:", "cuda:-1", "\n" * 500):
        with pytest.raises(ValueError, match=r"^device: '.* cannot be used here; expected auto, cpu") as caught:
            find_device(name)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert Setup(dtype="bfloat16").torch_dtype() == torch.bfloat16
