"""Class lists, the background rule, and the vocabulary they make together."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg import prompts
from ovseg.classes import Background, ClassList, build_vocabulary, parse_background, parse_classes, read_classes


def test_command_line_by_hand() -> None:
    assert parse_classes(" cat; kitten ,fire  engine") == ClassList(
        names=("cat", "fire engine"), aliases=(("cat", "kitten"), ("fire engine",))
    )


def test_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeff# animals\ncat; kitten  # small too\n\n  \nperson, walking\nC#\n", encoding="utf-8")
    assert read_classes(path) == ClassList(
        names=("cat", "person, walking", "C#"), aliases=(("cat", "kitten"), ("person, walking",), ("C#",))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "class 1 of '' has an empty name"),
        ("cat,,dog", "class 2 of 'cat,,dog' has an empty name"),
        ("cat;", "empty name, expected `name` or `name; alias; alias`, got 'cat;'"),
        ("cat,dog,Cat", "class 3 of 'cat,dog,Cat': 'Cat' was given before [(]class 1"),
        ("cat;kitten,dog;kitten", "'kitten' was given before"),
        ("cat;cat", "'cat' was given before"),
    ],
)
def test_empty_and_double_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_classes(text)


def test_bad_files_are_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("cat\n\ncat\n")
    with pytest.raises(ValueError, match=r"classes.txt, line 3: 'cat' was given before \(.*line 1\)"):
        read_classes(path)
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="classes.txt: holds no class"):
        read_classes(path)
    path.write_bytes("möwe".encode("latin-1"))
    with pytest.raises(ValueError, match="classes.txt: a class list must be UTF-8"):
        read_classes(path)
    with pytest.raises(FileNotFoundError):
        read_classes(tmp_path / "none.txt")


WORD = st.text("abcdefgh é", min_size=1, max_size=6).map(str.strip).filter(bool)


@given(st.lists(WORD, min_size=1, max_size=6, unique_by=lambda word: " ".join(word.split())))
def test_file_and_command_line_agree(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("classes") / "classes.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    assert read_classes(path) == parse_classes(",".join(names))
    assert build_vocabulary(names, "none") == build_vocabulary(read_classes(path), "none")


def test_background_rules() -> None:
    assert parse_background("none") == Background()
    assert parse_background("words") == Background(words=prompts.words("background"))
    assert parse_background("threshold=0.4") == Background(threshold=0.4)
    assert parse_background("sky, brick wall") == Background(words=("sky", "brick wall"), own=True)


@pytest.mark.parametrize(
    "text", ["threshold", "threshold=", "threshold=1", "threshold=0", "threshold=x", "threshold:.2"]
)
def test_bad_thresholds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match='expected "words", "none", "threshold=T" with 0 < T < 1'):
        parse_background(text)


@pytest.mark.parametrize("text", ["", "sky,,wall", "sky,sky"])
def test_bad_background_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="background: .*your own words"):
        parse_background(text)


def test_vocabulary_with_own_background_words() -> None:
    vocabulary = build_vocabulary("cat;kitten,dog", "sky,wall")
    assert vocabulary.names == ("background", "cat", "dog")
    assert vocabulary.prompts == ("sky", "wall", "cat", "kitten", "dog")
    assert vocabulary.owners == (0, 0, 1, 1, 2)
    assert vocabulary.threshold is None
    assert vocabulary.notes == ()


def test_vocabulary_without_background_and_with_a_threshold() -> None:
    plain, threshold = build_vocabulary("cat,dog", "none"), build_vocabulary("cat,dog", "threshold=0.3")
    assert (plain.names, plain.owners) == (("cat", "dog"), (0, 1))
    assert (threshold.names, threshold.owners) == (("background", "cat", "dog"), (1, 2))
    assert threshold.prompts == ("cat", "dog")
    assert threshold.threshold == 0.3


def test_a_class_among_the_default_words_is_taken_out_and_said_once() -> None:
    vocabulary = build_vocabulary("cat,Grass,lake;water")
    assert vocabulary.notes == ("taken out of the default background words, because they are classes: grass, water",)
    background = [prompt for prompt, owner in zip(vocabulary.prompts, vocabulary.owners, strict=True) if owner == 0]
    assert background == [word for word in prompts.words("background") if word not in ("grass", "water")]
    assert len({prompt.casefold() for prompt in vocabulary.prompts}) == len(vocabulary.prompts)


def test_clashes_that_the_user_made_are_errors() -> None:
    with pytest.raises(ValueError, match="given both as a class and as background: Sky"):
        build_vocabulary("cat,sky", "Sky,wall")
    with pytest.raises(ValueError, match='"Background" is a class and the name of the background'):
        build_vocabulary("cat,Background", "words")
    with pytest.raises(ValueError, match="every default background word is also a class"):
        build_vocabulary(prompts.words("background"), "words")
    with pytest.raises(ValueError, match="no classes given"):
        build_vocabulary([])
    assert build_vocabulary("cat,background", "none").names == ("cat", "background")


def test_hash_follows_what_decides_labels() -> None:
    hashes = [
        build_vocabulary(classes, background).sha256
        for classes, background in [
            ("cat,dog", "none"), ("dog,cat", "none"), ("cat;dog", "none"), ("cat,dog", "words"),
            ("cat,dog", "threshold=0.4"), ("cat,dog", "threshold=0.5"),
        ]
    ]  # fmt: skip
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == build_vocabulary(["cat", "dog"], "none").sha256
    assert len(hashes[0]) == 64
