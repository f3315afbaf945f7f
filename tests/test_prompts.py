"""The text files: CLIP's templates as open_clip keeps them, and a sane background list."""

from __future__ import annotations

import pytest
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

import prompts


def test_imagenet80_is_the_list_of_clip() -> None:
    assert prompts.templates("imagenet80") == tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    assert len(prompts.templates("imagenet80")) == 80


def test_short_templates() -> None:
    assert prompts.templates("plain") == ("{}",)
    assert prompts.templates("photo") == ("a photo of a {}.",)


def test_background_words_are_distinct_bare_words() -> None:
    words = prompts.words("background")
    assert len(words) == len(set(words)) == 26
    assert {"sky", "grass", "water"} <= set(words)
    assert not {"cat", "dog", "person", "bed", "lamp"} & set(words)
    assert all(word == word.strip().lower() and "#" not in word for word in words)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown templates 'imagenet', expected one of imagenet80, photo, plain"):
        prompts.templates("imagenet")
    with pytest.raises(ValueError, match="unknown words 'photo', expected one of background"):
        prompts.words("photo")
