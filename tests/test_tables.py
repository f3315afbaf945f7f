"""The tables of scored runs: what is set beside what, and what is not."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from test_score import DATASET, LABELS, MASKS, TRUTH, Truth, change, write_run

from ovseg.eval.families import BENCHMARKS
from ovseg.eval.protocols import protocol
from ovseg.eval.published import published
from ovseg.eval.scoring import score_run
from ovseg.eval.spreadsheets import classes_csv
from ovseg.eval.tables import APART_NOTE, PARTIAL_NOTE, Sheet, run_sheet

ADE = Truth(DATASET.maps, name="ade20k")


def rows(table: Sheet) -> list[dict[str, str]]:
    """The rows of the runs in Markdown, by their header."""
    return read(table.markdown().partition(", published")[0])


def published_rows(table: Sheet) -> list[dict[str, str]]:
    """The rows by exactly the rules of a run."""
    return read(table.markdown().partition(", published\n")[2].partition(", published, apart\n")[0])


def rows_apart(table: Sheet) -> list[dict[str, str]]:
    return read(table.markdown().partition(", published, apart\n")[2])


def by_rules(name: str, dataset: str, exact: bool = True, **changes: object) -> dict[str, object]:
    """Facts of a run that follows a family's rules."""
    rules = replace(protocol(name, dataset, pixel_exact=exact), **changes)
    return {"protocol": json.loads(json.dumps(asdict(rules))), "vocabulary": rules.classes}


def read(markdown: str) -> list[dict[str, str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    if not lines:
        return []
    header, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(cells) == len(header) for cells in body)
    return [dict(zip(header, cells, strict=True)) for cells in body]


def test_a_run_by_exactly_a_familys_rules_stands_beside_its_rows(tmp_path):
    whole = replace(ADE, more=())
    run = write_run(tmp_path / "run", LABELS, **by_rules("naclip", "ade20k"))
    table = run_sheet([score_run(run, whole)])
    (ours,) = rows(table)
    assert ours["run"] == str(tmp_path / "run") and ours["masks"] == "none" and ours["dense CLIP"] == "naclip"
    assert ours["protocol"] == "naclip, pixel-exact" and ours["images"] == "2 of 2"
    # Image a alone has both IoUs at 2 of 3 and 1 of 2, image b/c is right: every draw lies between.
    assert ours["mIoU"].startswith("75.00 [58.33, 100.00]") and ours["fwIoU"] == "75.00"
    assert published_rows(table) == [{"method": "NACLIP, no PAMR", "protocol": "naclip", "mIoU": "17.4"}]
    others = {row["method"]: row for row in rows_apart(table)}
    assert others["NACLIP, PAMR"] == {
        "method": "NACLIP, PAMR",
        "mIoU": "19.1",
        "rules": "NACLIP's rules and PAMR, which is no part of a protocol here",
    }
    assert others["SCLIP, its code"]["rules"] == "by --protocol sclip --pixel-exact, on the whole set"
    assert "NACLIP, no PAMR" not in others and len(others) == 16
    assert "CLIP ViT-B/16" in table.markdown() and "not ours" in table.markdown()
    assert APART_NOTE in table.markdown() and not any("not all images" in note for note in table.notes)


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        ((), by_rules("naclip", "ade20k", exact=False)),
        ((), by_rules("naclip", "ade20k", logit_scale=50)),
        ((), by_rules("naclip", "ade20k") | {"vocabulary": "ade20k"}),
        ((), by_rules("naclip", "ade20k") | {"partial": True}),
        (("z",), by_rules("naclip", "ade20k")),
        ((), {"protocol": {"name": "naclip", "pixel_exact": True}}),
    ],
    ids=["not exact", "changed", "other names", "partial", "not all images", "former release"],
)
def test_a_run_by_other_rules_stands_apart_from_every_row(tmp_path, more, facts):
    run = write_run(tmp_path / "run", LABELS, **facts)
    table = run_sheet([score_run(run, replace(ADE, more=more))])
    assert published_rows(table) == []
    assert "NACLIP, no PAMR" in {row["method"] for row in rows_apart(table)}
    assert (PARTIAL_NOTE in table.notes) == bool(facts.get("partial"))
    other_values = "naclip, pixel-exact, other values"
    expected = {50: other_values, None: other_values}.get(facts["protocol"].get("logit_scale"), "naclip")
    assert rows(table)[0]["protocol"].startswith(expected)


def test_published_rows_are_those_of_the_data_set_alone():
    beside, apart = published("voc21", {"clearclip", "sclip", "tcl"})
    assert [(row.method, row.protocol, row.mIoU) for row in beside] == [
        ("SCLIP, its code", "sclip", 59.63),
        ("ClearCLIP", "clearclip", 51.8),
    ]
    assert {row.method for row in apart} >= {"SCLIP, its paper", "OVDiff", "MaskCLIP, re-run by TCL"}
    assert all(row.why for row in apart)
    assert "MaskCLIP, its paper" in {row.method for row in published("voc20", {"maskclip"})[1]}
    assert published("custom", {"sclip"}) == published("coco-stuff27", {"sclip"}) == ([], [])
    assert "GELU" in next(row.why for row in published("context59", set())[1] if row.method == "MaskCLIP, its paper")


def test_published_rows_have_the_means_that_were_published_with_them():
    means = {"CLIP": 13.6, "MaskCLIP, re-run by TCL": 27.9, "MaskCLIP, re-run": 30.3, "SCLIP, its paper": 38.2}
    means |= {"NACLIP, no PAMR": 39.4, "NACLIP, PAMR": 42.5, "OVDiff": 37.8, "ProxyCLIP (adds DINO)": 42.3}
    means |= {"SC-CLIP (no other model)": 43.9, "Trident (adds DINO, SAM)": 45.8, "CorrCLIP (adds DINO, SAM 2)": 48.7}
    means |= {"OV-Stitcher": 50.7, "ClearCLIP": 38.1}
    values: dict[str, list[float]] = {}
    for dataset in BENCHMARKS:
        for row in published(dataset, set())[1]:
            values.setdefault(row.method, []).append(row.mIoU)
    for method, mean in means.items():
        assert len(values[method]) == 8
        assert sum(values[method]) / 8 == pytest.approx(mean, abs=0.0501)
    assert len(values["SCLIP, its code"]) == 8


def test_several_runs_have_a_lead_over_the_first_where_the_images_are_the_same(tmp_path):
    worse = {"a": [[0, 0], [0, 0]], "b/c": [[0, 1], [0, 1]]}
    runs = [write_run(tmp_path / name, maps) for name, maps in (("worse", worse), ("better", LABELS))]
    runs.append(write_run(tmp_path / "fewer", {"a": LABELS["a"]}))
    table = run_sheet([score_run(run, DATASET) for run in runs])
    first, second, third = rows(table)
    # worse: cat 3 of 5, dog 2 of 4 (mIoU 55); image a drawn twice gives a lead of 58.33 - 25, image b/c none.
    assert first["mIoU"].startswith("55.00") and first["lead"] == ""
    assert second["lead"] == "+20.00 [+0.00, +33.33]"
    assert third["lead"] == "" and third["images"] == "1 of 3"
    assert any(str(tmp_path / "fewer") in note for note in table.notes)


def test_best_labels_have_a_lead_in_boundary_f_too(tmp_path):
    pixels = {id: [[0, 1], [2, 3]] for id in LABELS}
    runs = [write_run(tmp_path / name, maps, ".masks.png") for name, maps in (("few", MASKS), ("many", pixels))]
    few, many = rows(run_sheet([score_run(run, DATASET, best_label=True) for run in runs]))
    assert few["boundary F"] == "50.00" and few["boundary F lead"] == ""
    assert many["boundary F"] == "90.00" and many["boundary F lead"] == "+40.00 [+0.00, +80.00]"


def test_runs_of_different_protocols_are_told_apart_and_each_brings_its_published_rows(tmp_path):
    whole = replace(ADE, more=())
    runs = [write_run(tmp_path / name, LABELS, **by_rules(name, "ade20k")) for name in ("naclip", "sclip")]
    runs.append(write_run(tmp_path / "label", LABELS, command="label", by="emerdiff", protocol=None))
    table = run_sheet([score_run(run, whole) for run in runs])
    found = rows(table)
    assert [row["protocol"] for row in found[:3]] == ["naclip, pixel-exact", "sclip, pixel-exact", "none"]
    assert found[2]["masks"] == "emerdiff"
    assert [row["method"] for row in published_rows(table)] == ["SCLIP, its code", "NACLIP, no PAMR"]
    assert any("different protocols" in note for note in table.notes)
    assert [row["lead"] for row in found[:3]] == [""] * 3


def test_runs_of_one_family_by_other_values_cannot_be_compared(tmp_path):
    facts = [by_rules("sclip", "ade20k"), by_rules("sclip", "ade20k", logit_scale=50), by_rules("sclip", "ade20k")]
    facts[2]["protocol"]["view"]["variant"] = "naclip"  # the method's, no rule
    runs = [write_run(tmp_path / str(number), LABELS, **one) for number, one in enumerate(facts)]
    first, second, third = (score_run(run, ADE) for run in runs)
    assert rows(run_sheet([first, third]))[1]["lead"] and not rows(run_sheet([first, second]))[1]["lead"]


def test_a_run_of_ones_own_data_has_no_published_rows(tmp_path):
    for protocol_ in ({"name": "native"}, None):
        table = run_sheet([score_run(write_run(tmp_path / "run", LABELS, protocol=protocol_), ADE)])
        assert table.below is None


def test_best_labels_can_be_compared_whatever_the_protocols(tmp_path):
    names = ("sclip", "tcl")
    runs = [write_run(tmp_path / name, MASKS, ".masks.png", protocol={"name": name}) for name in names]
    table = run_sheet([score_run(run, DATASET, best_label=True) for run in runs])
    assert rows(table)[1]["lead"] and not any("different protocols" in note for note in table.notes)


def test_an_oracle_says_so_and_stands_beside_no_published_row(tmp_path):
    run = write_run(tmp_path / "masks", MASKS, command="masks", by="slic", view=None)
    table = run_sheet([score_run(run, ADE, best_label=True)])
    (only,) = rows(table)
    assert table.below is None
    assert only["boundary F"] == "50.00" and only["dense CLIP"] == "" and only["masks"] == "slic"
    assert "best label" in table.title and any("reads labels" in note for note in table.notes)


def test_true_masks_are_said_to_read_labels_and_a_record_of_a_former_release_is_read(tmp_path):
    run, former = write_run(tmp_path / "run", LABELS, by="truth"), write_run(tmp_path / "former", LABELS)
    record = json.loads((former / "run.json").read_text())
    del record["by"]
    (former / "run.json").write_text(json.dumps({**record, "method": "maskclip+truth"}), encoding="utf-8")
    for folder in (run, former):
        scored = score_run(folder, DATASET)
        assert scored.results()["by"] == "truth" and "method" not in scored.results()
        table = run_sheet([scored])
        assert rows(table)[0]["masks"] == "truth"
        assert "truth reads labels: its masks are the true ones" in table.notes
    assert not any("reads labels" in note for note in run_sheet([score_run(change(run, by="slic"), DATASET)]).notes)


def test_a_terminal_gets_a_drawn_table_and_a_pipe_markdown(tmp_path, monkeypatch, capsys):
    table = run_sheet([score_run(write_run(tmp_path / "run [b]", LABELS), ADE)])
    table.show()
    assert capsys.readouterr().out == table.markdown()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "300")
    table.show()
    shown = capsys.readouterr().out
    assert "─" in shown and "75.00" in shown and "run [b]" in shown and "NACLIP" in shown and "| --- |" not in shown


@pytest.mark.parametrize("columns", [64, 100])
@pytest.mark.parametrize("several", [False, True])
def test_a_narrow_terminal_folds_the_run_and_no_other_word(tmp_path, monkeypatch, capsys, columns, several):
    folders = [tmp_path / f"a-long-name-of-a-run-{name}" for name in ("x", "y")[: 1 + several]]
    runs = [write_run(folder, LABELS, by="emerdiff") for folder in folders]
    table = run_sheet([score_run(run, DATASET) for run in runs])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    table.show()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = re.split("^- ", shown, flags=re.MULTILINE)[0].splitlines()
    assert max(map(len, lines)) <= columns and sum("emerdiff" in line for line in lines) == len(runs)
    assert "protocol" in shown and "[58.33," in shown and "100.00]" in shown
    first_column = "".join(line[: table.widths(columns)[0]].strip() for line in lines)
    assert all(first_column.count(str(folder)) == 1 for folder in folders)
    notes = [" ".join(note.split()) for note in re.split("^- ", shown, flags=re.MULTILINE)[1:]]
    said = [note for note in notes if note.startswith("too wide for this terminal, see the file: ")]
    left_out = said[0].partition(": ")[2].split(", ") if said else []
    assert list(table.header[len(table.header) - len(left_out) :]) == left_out
    assert (not left_out) == (columns == 100)


def test_runs_with_other_class_names_are_named(tmp_path):
    own = write_run(tmp_path / "own", LABELS)
    other = write_run(tmp_path / "other", LABELS, vocabulary="ade20k-other", vocabulary_sha256="def")
    edited = write_run(tmp_path / "edited", LABELS, vocabulary_sha256="123")
    notes = {
        name: [note for note in run_sheet([score_run(run, DATASET) for run in runs]).notes if "class names" in note]
        for name, runs in {"own": [own, own], "other": [other], "edited": [own, edited], "both": [own, other]}.items()
    }
    named = f"class names of ade20k-other, not the data set's own (classes.txt): {other}"
    assert notes["own"] == [] and notes["other"] == [named] and notes["both"][0] == named
    assert notes["edited"] == notes["both"][1:] and "differ in vocabulary" in notes["edited"][0]
    oracle = [score_run(write_run(run, MASKS, ".masks.png"), DATASET, best_label=True) for run in (own, other)]
    assert not any("class names" in note for note in run_sheet(oracle).notes)


def test_undefined_numbers_are_a_dash(tmp_path):
    dataset = Truth({"a": np.full((2, 2), 255)})
    (only,) = rows(run_sheet([score_run(write_run(tmp_path, {"a": TRUTH["a"]}), dataset)]))
    assert only["mIoU"] == only["pixel acc."] == only["boundary IoU"] == "-"


def test_class_rows_as_csv(tmp_path):
    dataset = Truth(DATASET.maps, ("cat", "dog, wolf", "cow"))
    run = change(write_run(tmp_path, LABELS), names=["cat", "dog, wolf", "cow"])
    text = classes_csv(score_run(run, dataset).results()["classes"])
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "IoU", "accuracy", "pixels"],
        ["cat", "75.0000", "100.0000", "3"],
        ["dog, wolf", "75.0000", "75.0000", "4"],
        ["cow", "", "", "0"],
    ]


def test_what_comes_from_others_is_text_and_nothing_else(capsys, monkeypatch):
    odd = "a|b\x1b[2J\n<script>"
    table = Sheet(odd, ["run", "masks"], [[odd, "none"]], [odd])
    expected = r"a\|b\x1b[2J\n&lt;script>"
    assert (
        table.markdown() == f"## {expected}\n\n| run | masks |\n| --- | --- |\n| {expected} | none |\n\n- {expected}\n"
    )
    monkeypatch.setattr("ovseg.eval.tables.is_terminal", lambda stream: True)
    table.show()
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and r"\x1b[2J" in shown
    row = {"IoU": None, "accuracy": 1.0, "pixels": 3}
    names = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "cat, dog", "a=b"]
    (_, *cells) = csv.reader(io.StringIO(classes_csv([row | {"name": name} for name in names])))
    assert [line[0] for line in cells] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@SUM(1)", "cat, dog", "a=b"]
