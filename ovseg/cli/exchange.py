"""The grammar of what travels between ovseg and other tools: `ovseg export`.

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
