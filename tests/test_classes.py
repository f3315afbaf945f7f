"""Class lists, the background rule, and the vocabulary they make together."""

from __future__ import annotations

import time
from pathlib import Path

import open_clip
import pytest
from fuzzing import bounded_memory, check_one_line
from hypothesis import given
from hypothesis import strategies as st

from ovseg import prompts
from ovseg.classes import (
    Background,
    ClassList,
    build_vocabulary,
    parse_background,
    parse_classes,
    read_classes,
)
from ovseg.towers.token_lengths import check_lengths


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


def test_the_hash_in_todays_run_folders_is_still_this_lists() -> None:
    """Digest of 25 November 2026; a run folder that holds it can be continued."""
    known = "fab4238a8f75f9ef59d3b8f19be9870698a2dce33a8fe560bce4898edab84f6a"
    assert build_vocabulary("cat;kitten,dog", "words").sha256 == known


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Cat", "cAT", True),
        (COMPOSED, DECOMPOSED, True),
        ("\uff23\uff21\uff34", "cat", True),  # full-width letters
        ("\ufb01re", "fire", True),  # a ligature
        ("fire\u3000engine", "fire engine", True),  # ideographic space
        ("\u00c9cole", "e\u0301cole", True),
        ("stra\u00dfe", "strasse", False),
        ("cafe", COMPOSED, False),
        ("C#", "C", False),
        ("\u732b", "\u72d7", False),
    ],
)
def test_names_are_the_same_where_openais_tokenizer_reads_the_same(first: str, second: str, same: bool) -> None:
    read = open_clip.SimpleTokenizer().encode
    assert (read(first) == read(second)) == same
    for classes, background in [([first, second], "none"), (first, second)]:
        if same:
            with pytest.raises(ValueError, match="given"):
                build_vocabulary(classes, background)
        else:
            assert build_vocabulary(classes, background).prompts in ((first, second), (second, first))


def test_names_are_kept_composed() -> None:
    assert parse_classes(f" {DECOMPOSED}\u3000 bar").names == (f"{COMPOSED} bar",)
    assert build_vocabulary(DECOMPOSED, "none").sha256 == build_vocabulary(COMPOSED, "none").sha256


def test_full_width_separators(tmp_path: Path) -> None:
    """They separate as "," and ";" in the command line's list; in a file or a Python list a comma is part of a name."""
    by_hand = ClassList(names=("cat", "dog", "cow"), aliases=(("cat", "kitten"), ("dog",), ("cow",)))
    assert parse_classes("cat\uff1bkitten\uff0cdog\u3001cow") == by_hand
    assert parse_background("sky\uff0cwall").words == ("sky", "wall")
    path = tmp_path / "classes.txt"
    path.write_text("cat\uff1bkitten\nperson\u3001walking\n", encoding="utf-8")
    assert read_classes(path).aliases == (("cat", "kitten"), ("person\u3001walking",))
    assert build_vocabulary(["person\uff0cwalking"], "none").names == ("person\uff0cwalking",)
    with pytest.raises(ValueError, match="class 2 of .* has an empty name"):
        parse_classes("cat\uff0c")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", 3], r"^class 2: expected a name \(str\), got 3 \(int\)$"),
        (["cat", "dog", None], r"^class 3: expected a name \(str\), got None \(NoneType\)$"),
        ([b"cat"], r"^class 1: expected a name \(str\), got b'cat' \(bytes\)$"),
        (b"cat", r"^classes: expected text .* or a list of names, got b'cat' \(bytes\)$"),
        (None, r"^classes: expected text .* or a list of names, got None \(NoneType\)$"),
        ({"cat": ["kitten"]}, r"^classes: expected text .* or a list of names, got \{.*\} \(dict\)$"),
        ({"cat", "dog"}, r"^classes: expected text .* or a list of names, got \{.*\} \(set\)$"),  # no order
        (Path("classes.txt"), r"^classes: expected text .* or a list of names, got .* \(PosixPath\)$"),
    ],
)
def test_what_is_no_name_is_refused_by_its_place(classes: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_vocabulary(classes, "none")  # type: ignore[arg-type]


def test_a_background_of_a_wrong_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^background: expected .*, got None \(NoneType\)$"):
        build_vocabulary("cat", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("letter", "code"), [("\x1b", "001B"), ("\x00", "0000"), ("\u200b", "200B"), ("\u202e", "202E"), ("\udcff", "DCFF")]
)
def test_control_and_invisible_characters_are_refused(letter: str, code: str) -> None:
    with pytest.raises(ValueError, match=f"^class 2: .* has a control or invisible character, U\\+{code}$") as error:
        build_vocabulary(["dog", f"c{letter}at"], "none")
    assert str(error.value).isprintable()


def test_joiners_and_white_space_are_no_control_characters() -> None:
    joined = "\u0645\u06cc\u200c\u0631\u0648\u062f"  # a Persian word with a joiner
    assert parse_classes(f"{joined},fire\t\nengine").names == (joined, "fire engine")


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "coco-stuff171", "context59", "voc20", "voc20-sclip"])
def test_lists_that_come_with_the_package_are_kept_as_they_stand(name: str) -> None:
    prompts_of_file = [alias.strip() for line in prompts.classes(name) for alias in line.split(";")]
    assert list(build_vocabulary(prompts.classes(name), "none").prompts) == prompts_of_file


def words_and_two(sentence: str) -> int:
    return len(sentence.split()) + 2


def test_prompts_longer_than_the_text_tower_reads() -> None:
    """Tokens are words here, with one for start and end each: "a b c" is 5, "one b c d" 6, "one of b c d" 7."""
    templates = ["one {}", "{}", "one of {}"]
    assert check_lengths(["a b c", "a"], templates, words_and_two, limit=7) == ()
    notes = check_lengths(["a", "a b c"], templates, words_and_two, limit=6)
    assert notes == ("cut off after 6 tokens in the longest templates, which have 7: 'a b c'",)
    with pytest.raises(
        ValueError, match=r"^class name 'a b c': expected at most 4 tokens in '\{\}', got 5: shorten it$"
    ):
        check_lengths(["a", "a b c"], templates, words_and_two, limit=4)


def test_names_that_clips_tokenizer_cuts_to_the_same_tokens_are_refused() -> None:
    tokenizer = open_clip.SimpleTokenizer()
    first, second = ("very " * 80 + end for end in ("big cat", "small dog"))
    assert (tokenizer([first]) == tokenizer([second])).all()
    with pytest.raises(ValueError, match=r"^class name 'very .*\.\.\.': expected at most 77 tokens in '\{\}', got 84"):
        check_lengths([first, second], ["{}"], lambda text: len(tokenizer.encode(text)) + 2, tokenizer.context_length)


def test_lists_beyond_all_measure_are_a_line_soon_and_in_little_memory(tmp_path):
    (tmp_path / "long.txt").write_text("cat\n" + "x" * 10_000_000)
    (tmp_path / "many.txt").write_text("\n".join(map(str, range(70_000))))
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(2**40)  # holds no disk space
    start = time.process_time()
    for name, said in (
        ("long.txt", "long.txt, line 2: a name of 10000000 characters, expected at most 1000"),
        ("many.txt", "at most 65534 names fit into a label map, got 70000"),
        ("large.txt", "large.txt: over 67108864 bytes, expected a class list"),
        ("/dev/zero", "/dev/zero: over 67108864 bytes, expected a class list"),
    ):
        with bounded_memory(2**30), pytest.raises(ValueError, match=said):
            read_classes(tmp_path / name)
    with bounded_memory(2**30), pytest.raises(ValueError, match="at most 65534 names fit into a label map, got 70000"):
        parse_classes(",".join(map(str, range(70_000))))
    with pytest.raises(ValueError) as caught:
        parse_classes(",".join(["cat"] * 70_000))
    check_one_line(caught.value, "class 2 of 'cat,cat,")
    assert time.process_time() - start < 10
