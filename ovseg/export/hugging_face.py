"""`imagefolder` and `parquet`: Hugging Face `datasets`, `datasets.load_dataset(FOLDER)`.

    imagefolder                                       parquet
    metadata.jsonl                                    train.parquet   id, image, mask, width, height
    images/<id>.jpg   with --images copy or link      id2label.json
    masks/<id>.png
    id2label.json

Exact: masks are grey PNGs with the run's indices, its own "no label" (255; 65535 over 254 names) included, and
id2label.json names them, as transformers' models have it. The background is a class. With --images copy each row has
the image as it is, and an image that cannot be put along has no row; without, the rows have masks alone. parquet needs
the package pyarrow (`pip install 'ovseg[parquet]'`), and holds 64 images at a time in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovseg.export.image import ImageSet, LabelledImage, grey_png
from ovseg.files import json_bytes, write_atomically

ROWS = 64  # of a row group


def write_imagefolder(images: ImageSet, folder: Path) -> None:
    """Write a PNG an image and the row of each in metadata.jsonl."""
    folder.joinpath("masks").mkdir()
    with (folder / "metadata.jsonl").open("w", encoding="utf-8", errors="backslashreplace") as file:
        for image in images:
            row = {"mask_file_name": f"masks/{image.id}.png", **_facts(image)}
            if images.images != "none":
                row = {"file_name": f"images/{image.paired_name}", **row}
                if not images.place(image, folder / row["file_name"]):
                    continue
            write_atomically(folder / row["mask_file_name"], grey_png(image.labels))
            file.write(json.dumps(row) + "\n")
    _write_names(images, folder)


def write_parquet(images: ImageSet, folder: Path) -> None:
    """Write train.parquet."""
    from pyarrow import Table, binary, field, int32, parquet, schema, string, struct

    picture = struct([field("bytes", binary()), field("path", string())])
    columns = {"id": string(), **({"image": picture} if images.images != "none" else {}), "mask": picture}
    columns |= {"width": int32(), "height": int32()}
    kinds = {string(): {"dtype": "string", "_type": "Value"}, int32(): {"dtype": "int32", "_type": "Value"}}
    features = {name: kinds.get(kind, {"_type": "Image"}) for name, kind in columns.items()}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    layout = schema(list(columns.items()), metadata=told)
    with parquet.ParquetWriter(folder / "train.parquet", layout) as writer:
        for rows in _groups(_rows(images)):
            writer.write_table(Table.from_pylist(rows, schema=layout))
    _write_names(images, folder)


def _rows(images: ImageSet) -> Iterator[dict[str, Any]]:
    for image in images:
        row = {**_facts(image), "mask": {"bytes": grey_png(image.labels), "path": f"{_text(image.id)}.png"}}
        if images.images != "none":
            if (path := images.original(image)) is None:
                continue
            row["image"] = {"bytes": path.read_bytes(), "path": _text(image.paired_name)}
        yield row


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS:
            yield group
            group = []
    if group:
        yield group


def _facts(image: LabelledImage) -> dict[str, Any]:
    height, width = image.labels.shape
    return {"id": _text(image.id), "width": width, "height": height}


def _text(name: str) -> str:
    """A name as text that can be written as UTF-8: bytes of a file name that are none stand as backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_names(images: ImageSet, folder: Path) -> None:
    names = {str(index): name for index, name in enumerate(images.names)}
    write_atomically(folder / "id2label.json", json_bytes(names))
