"""Settings stated once: what the flags, ablations and footers are made from, and that none of it loads torch."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import asdict, fields, replace

import pytest

from emerdiff.modulate import PLACEMENTS
from emerdiff.options import MODULATIONS, TILE_SIDE, Options, read_layer, settings, show_layer
from ovseg.cli.flags import add_method

OTHERS = {  # a value of each setting that is not the default, as text and as it is
    "masks": ("7", 7),
    "place": ("0.5", 0.5),
    "t_f": ("101", 101),
    "t_m": ("401", 401),
    "strength": ("2.5", 2.5),
    "feature_layer": ("up1.1", "up_blocks.1.attentions.1.transformer_blocks.0.attn2"),
    "modulated_layer": ("up2.0", "up_blocks.2.attentions.0.transformer_blocks.0.attn2"),
    "sigma": ("0.25", 0.25),
    "steps": ("10", 10),
    "seed": ("3", 3),
    "speed": ("exact", "exact"),
    "injection": ("off", False),
    "edges": ("on", True),
    "tile": ("640", 640),
    "detail": ("on", True),
}


@pytest.mark.parametrize("statement", ["import emerdiff", "from emerdiff import Options; Options(masks=3)"])
def test_options_load_nothing_heavy(statement: str):
    heavy = ("torch", "numpy", "diffusers", "transformers", "PIL", "scipy", "sklearn")
    script = f"{statement}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_loads_and_others_are_refused():
    import emerdiff

    assert {name: getattr(emerdiff, name).__name__ for name in emerdiff.__all__} == {
        name: name for name in emerdiff.__all__
    }
    assert dir(emerdiff) == emerdiff.__all__ and "Options" in emerdiff.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = emerdiff.nothing


def test_the_names_of_modulations_are_those_of_the_engine():
    assert set(MODULATIONS) == set(PLACEMENTS)


def test_every_setting_reads_what_it_shows():
    assert {setting.name for setting in settings()} == set(OTHERS)
    for setting in settings():
        text, value = OTHERS[setting.name]
        assert setting.default == getattr(Options(), setting.field) != value
        assert setting.read(text) == value and setting.show(value) == text
        assert setting.read(setting.show(setting.default)) == setting.default
        changed = asdict(Options(**{setting.field: value}))
        assert {name for name, left in asdict(Options()).items() if changed[name] != left} == {setting.field}


@pytest.mark.parametrize(
    ("name", "text"), [("masks", "2.5"), ("feature_layer", ""), ("sigma", "x"), ("speed", "warp"), ("injection", "yes")]
)
def test_text_that_is_no_value_is_refused(name: str, text: str):
    (setting,) = (setting for setting in settings() if setting.name == name)
    with pytest.raises(ValueError, match=text):
        setting.read(text)


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("up1.0", "up_blocks.1.attentions.0.transformer_blocks.0.attn2"),
        ("down2.1", "down_blocks.2.attentions.1.transformer_blocks.0.attn2"),
        ("mid.0", "mid_block.attentions.0.transformer_blocks.0.attn2"),
        ("default", None),
    ],
)
def test_layers_have_short_names(short: str, name: str | None):
    assert read_layer(short) == name
    assert read_layer(show_layer(name)) == name
    if name:
        assert read_layer(name) == name


@pytest.mark.parametrize("name", ["up1", "up1.0.attn1", "up_blocks.1.attentions.0.transformer_blocks.0.attn1"])
def test_other_names_of_layers_are_left_as_they_are(name: str):
    assert read_layer(name) == show_layer(name) == name


def test_a_footer_says_what_was_set():
    def footer(options: Options) -> list[str]:
        return [text for one in settings() if (text := one.footer(getattr(options, one.field)))]

    shown = ["K = 30", "t_f = 1", "t_m = 281", "λ = 10", "σ = 1 px", "50 steps", "seed 0", "fast"]
    assert footer(Options()) == shown
    assert footer(replace(Options(), attention_injection=False)) == [*shown, "no attention injection"]


def parse(*arguments: str) -> dict[str, object]:
    """The method's flags that were given."""
    parser = ArgumentParser(allow_abbrev=False)
    add_method(parser)
    return {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}


def test_every_setting_is_a_flag_named_after_its_field():
    assert parse() == {}
    for setting in settings():
        text, value = OTHERS[setting.name]
        switch = setting.flag if value is True else setting.flag.replace("--", "--no-", 1)
        assert parse(*([switch] if isinstance(value, bool) else [setting.flag, text])) == {setting.field: value}
    assert parse("--injection") == {"attention_injection": True} and parse("--tile") == {"tile": TILE_SIDE}
    assert {field.name for field in fields(Options)} - {setting.field for setting in settings()} == {
        "modulation",
        "batch",
        "upsampling",
        "base_size",
        "keep_difference_maps",
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--masks", "many"], "--masks: expected a whole number, got 'many'"),
        (["--speed", "warp"], "--speed: expected fast or exact, got 'warp'"),
        (["--feature-layer", "default"], "--feature-layer: expected a layer by its name, got 'default'"),
    ],
)
def test_a_flag_says_what_it_expects(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(*arguments)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"),
    [("masks", 20.5), ("masks", True), ("seed", "1"), ("sigma", "wide"), ("attention_injection", "no"), ("speed", 1)],
)
def test_a_value_of_another_type_is_refused_by_its_field(field, value):
    with pytest.raises(ValueError, match=rf"^{field}: expected .*, got {value!r}$"):
        Options(**{field: value})


def test_a_smoothing_wider_than_the_image_is_refused() -> None:
    assert Options(base_size=64, sigma=64.0).sigma == 64
    with pytest.raises(ValueError, match=r"^sigma: expected at most the base size, 64 pixels, got 1e\+09"):
        Options(base_size=64, sigma=1e9)
