"""The report's page: the run's facts and statistics, and their assembly with the template, its style and its script."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import median
from string import Template
from typing import Any

from ovseg.draw import NO_LABEL_COLOUR, Colour
from ovseg.report import errors
from ovseg.report.image import mask_colours
from ovseg.run.folder import RunFolder
from ovseg.run.images import read_legend

APART = ("names", "colours", "no_label")  # facts that the page shows elsewhere

SCRIPTS = ("report.js", "paint.js", "detail.js")  # of every page; what begins it follows


@dataclass(frozen=True)
class Additions:
    """What a page has beside the report's parts: HTML above the classes (lead) and beside the image (tools), CSS, JS;
    nonce: what lets them run under a content security policy, "" for a page from disk."""

    lead: str = ""
    tools: str = ""
    style: str = ""
    script: str = ""
    nonce: str = ""


def assemble(
    title: str, data: Mapping[str, Any], scripts: Iterable[str] = (), additions: Additions | None = None
) -> bytes:
    """The page as UTF-8. data: what report.js reads; scripts: further elements, such as embedded images; additions:
    of another page than the report."""
    own = additions or Additions(script=_part("start.js"))
    page = Template(_part("template.html")).substitute(
        title=html.escape(title),
        style=_part("report.css") + own.style,
        script="\n".join([*map(_part, SCRIPTS), own.script]),
        data=json_in_script(data),
        images="\n".join(scripts),
        lead=own.lead,
        tools=own.tools,
        nonce=f' nonce="{own.nonce}"' if own.nonce else "",
    )
    return page.encode("utf-8", "replace")  # a title from a folder whose name is no UTF-8


def _part(name: str) -> str:
    return files("ovseg.report").joinpath(name).read_text(encoding="utf-8")


def json_in_script(value: object) -> str:
    """JSON that is safe inside a script element: ASCII, and no "<", so neither `</script>` nor `<!--` can occur."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def page_data(
    run: RunFolder, title: str, rows: Sequence[Mapping[str, Any]], problems: Mapping[str, str], folder: str | None
) -> dict[str, Any]:
    """The data that is in the page itself.

    rows: of the images, as `ReportImage` has them. problems: id -> why it is not shown. folder: of the images' files,
    below the page's own; None where they are embedded.
    """
    legend = read_legend(run)
    names, colours = (legend.names, legend.colours) if legend else ((), ())
    return {
        "title": title,
        "folder": folder,
        "classes": [
            {"name": name, "colour": _css(colour)}
            for name, colour in zip([*names, "no label"], [*colours, NO_LABEL_COLOUR], strict=True)
        ]
        if names
        else [],
        "maskColours": [_css(colour) for colour in mask_colours()],
        "images": list(rows),
        "statistics": class_statistics(rows, len(names)),
        "problems": [{"id": id, "reason": reason} for id, reason in sorted(problems.items())],
        "summary": [*_summary(run.facts, names), *errors.summary(rows)],
        "facts": fact_groups(run),
    }


def class_statistics(rows: Sequence[Mapping[str, Any]], names: int) -> list[dict[str, Any]]:
    """One row per name: index, share of all pixels (0..1), images it occurs in, score (mean over its pixels, None
    without any); the largest share first. "No label" (index `names`) comes last, where it occurs."""
    pixels, rated, scored = ([0.0] * (names + 1) for _ in range(3))
    images = [0] * (names + 1)
    for row in rows:
        for index, count, score in row["classes"]:
            pixels[index] += count
            images[index] += 1
            if score is not None:
                rated[index] += count
                scored[index] += count * score
    total = sum(pixels) or 1
    table = [
        {
            "index": index,
            "share": round(pixels[index] / total, 6),
            "images": images[index],
            "score": round(scored[index] / rated[index], 6) if rated[index] else None,
        }
        for index in range(names + 1)
        if index < names or images[index]
    ]
    return sorted(table, key=lambda row: (row["index"] == names, -row["share"], row["index"])) if names else []


def fact_groups(run: RunFolder) -> list[list[Any]]:
    """The run's facts to read: [heading, [[name, value], ...]] of texts; nested facts become groups of their own."""
    single = {key: value for key, value in run.facts.items() if not isinstance(value, Mapping) and key not in APART}
    seconds = [entry["seconds"] for entry in run.ids.values() if entry.get("seconds") is not None]
    if seconds:
        single["time an image"] = f"{median(seconds):.3g} s (median), {sum(seconds):.3g} s in all"
    nested = {_words(key): value for key, value in run.facts.items() if isinstance(value, Mapping)}
    groups = [[heading, _lines(facts)] for heading, facts in {"run": single, **nested}.items()]
    return [*groups, ["versions", [[library, _text(version)] for library, version in run.versions.items()]]]


def _lines(facts: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """[name, value] of each fact; those within a fact carry its name in front."""
    lines: list[list[str]] = []
    for key, value in facts.items():
        name = prefix + _words(key)
        lines += _lines(value, f"{name}: ") if isinstance(value, Mapping) else [[name, _text(value)]]
    return lines


def _summary(facts: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The line under the title, in parts."""
    background = list(names[:1]) == ["background"]
    classes = len(names) - background
    counted = f"{classes} class{'es' * (classes != 1)}{' and background' * background}"
    protocol = facts.get("protocol") or {}
    parts = [
        facts.get("dataset"),
        f"masks by {facts['by']}" if facts.get("by") else "",
        counted if names else "masks without names",
        f"preset {facts['preset']}" if facts.get("preset") else "",
        f"protocol {protocol['name']}" if protocol.get("name") else "",
    ]
    return [str(part) for part in parts if part]


def _words(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    if value in (None, "", []):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
