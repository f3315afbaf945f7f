"""The grammar of what travels between ovseg and other tools: `ovseg export`, `ovseg import`.

The code of a command is loaded when it is called; importing this file loads neither torch nor NumPy.
"""

from __future__ import annotations

import argparse
from typing import Any

EXPORT_EXAMPLES = """\
examples:
  ovseg export ovseg-labels --format coco
  ovseg export ovseg-labels --format cvat --format yolo --out exports
  ovseg export ovseg-labels --format voc --unsure 0.5 --images copy
  ovseg export ovseg-labels --format coco-panoptic --components
  ovseg export ovseg-labels --format coco --polygons --no-background --category-ids cat=17,dog=18 --images link

formats:
  png            index PNGs and legend.json (names, colours, no label)
  npz            NumPy arrays: labels, confidence, names
  coco           COCO JSON with run-length masks, or outlines (--polygons); supervision and Datumaro read it, too
  coco-panoptic  COCO panoptic JSON and PNGs of segment ids
  voc            PASCAL VOC tree: SegmentationClass, SegmentationObject, ImageSets
  cvat           a zip for CVAT's import "Segmentation mask 1.1"
  yolo           polygons for Ultralytics' YOLO segmentation, data.yaml
  labelme        a JSON with polygons an image
  label-studio   tasks.json with brush predictions, labeling_config.xml
  fiftyone       data/, labels/ and mask_targets.json: FiftyOne's ImageSegmentationDirectory
  imagefolder    masks/, images/ and metadata.jsonl for Hugging Face's load_dataset
  parquet        the same as one file; needs `pip install 'ovseg[parquet]'`

png, npz, coco, coco-panoptic, voc, fiftyone, imagefolder and parquet tell pixels without a label from background; in
the other formats nothing is drawn on either. Labels that were corrected by hand are exported as corrected. Each format
goes into a folder of its own, OUT/FORMAT. Images that failed or are not finished are left out."""

IMPORT_EXAMPLES = """\
examples:
  ovseg import ovseg-labels --from task_1.zip --who ada           (CVAT's export "Segmentation mask 1.1")
  ovseg import ovseg-labels --from project-1.json                 (Label Studio's JSON, or COCO's)
  ovseg import ovseg-labels --from labelme/                       (a folder of labelme's JSON files)
  ovseg import ovseg-labels --from masks/ --format png            (index PNGs; with legend.json by its names)

formats, told by the files unless --format is given: png, voc, cvat, coco, labelme, label-studio.
The labels are kept beside the run's own as corrections (ID.corrected-1.png, ID.corrected.json): who made them, and each
step before. `ovseg export`, `report` and `eval score` use them from then on; the run's own stay as they were. Labels
that stand already change nothing. In cvat, labelme, label-studio, and coco without a background, what is not drawn on
becomes background, but for pixels that had no label. Images are found by their ids, or by their last parts."""


def add_export(commands: Any) -> None:
    """Add `export` to the command line's subparsers."""
    plain = argparse.RawDescriptionHelpFormatter
    export = commands.add_parser(
        "export", help="a run's labels as files of other tools", epilog=EXPORT_EXAMPLES, formatter_class=plain
    )
    export.add_argument("folder", metavar="RUN", help="run folder, as `ovseg label` wrote it")
    export.add_argument("--format", action="append", required=True, metavar="F", help="see below; may be repeated")
    export.add_argument("--out", default="ovseg-export", metavar="DIR", help="folder for them (default ovseg-export)")
    export.add_argument("--unsure", type=float, metavar="T", help="no label for pixels with a score under T, in 0..1")
    export.add_argument("--components", action="store_true", help="a region for each connected part of a class")
    export.add_argument("--no-background", action="store_true", help="coco, coco-panoptic: background is no category")
    export.add_argument("--polygons", action="store_true", help="coco: outlines instead of run-length masks, as exact")
    export.add_argument("--category-ids", metavar="IDS", help="coco, coco-panoptic: cat=17,dog=18, or a JSON file")
    export.add_argument("--images", choices=("none", "copy", "link"), default="none", help="the images too (none)")
    export.add_argument("--uncorrected", action="store_true", help="the run's own labels, where corrected by hand, too")
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export of the format in --out")
    export.set_defaults(run="ovseg.cli.export:run")


def add_import(commands: Any) -> None:
    """Add `import` to the command line's subparsers."""
    plain = argparse.RawDescriptionHelpFormatter
    back = commands.add_parser(
        "import", help="labels that were corrected in other tools", epilog=IMPORT_EXAMPLES, formatter_class=plain
    )
    back.add_argument("folder", metavar="RUN", help="run folder, as `ovseg label` wrote it")
    back.add_argument("--from", dest="source", required=True, metavar="PATH", help="the tool's file or folder")
    back.add_argument("--format", metavar="F", help="see below (default: told by the files)")
    back.add_argument("--who", metavar="NAME", help="who corrected them, where the file does not say (your login)")
    back.set_defaults(run="ovseg.cli.back:run")
