"""Which files each kind of model is made of. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emerdiff import configs
from ovseg.clip_config import CLIP_CONFIG, CLIP_WEIGHTS
from ovseg.words import CLASSIFIER_CONFIG, CLASSIFIER_WEIGHTS, CLASSIFIER_WORDS


@dataclass(frozen=True)
class Kind:
    """The files of one kind of model, by their paths in its folder."""

    configs: tuple[str, ...]  # JSON; all are needed
    weights: tuple[tuple[str, ...], ...]  # of each group one file is needed, the first that is there is read
    tokenizer: tuple[tuple[str, ...], ...]  # one of these groups is needed, whole; none: the tokenizer is built in
    settings: tuple[str, ...]  # patterns of what is fetched beside configs and weights

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders below the model's own that hold JSON."""
        return tuple(sorted({str(Path(pattern).parent) for pattern in (*self.configs, *self.settings)}))


KINDS: dict[str, Kind] = {
    "diffusion": Kind(  # of diffusers
        configs=configs.CONFIGS,
        weights=tuple((name,) for name in configs.WEIGHTS),
        tokenizer=configs.TOKENIZERS,
        settings=("tokenizer/*.json", "tokenizer/*.txt"),
    ),
    "clip": Kind(  # of open_clip
        configs=(CLIP_CONFIG,),
        weights=(CLIP_WEIGHTS,),
        tokenizer=(),
        settings=("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    ),
    "classifier": Kind(  # of `ovseg.classifier`
        configs=(CLASSIFIER_CONFIG, CLASSIFIER_WORDS),
        weights=((CLASSIFIER_WEIGHTS,),),
        tokenizer=(),
        settings=(),
    ),
}


def form(kind: str, folder: Path) -> str:
    """Which of `KINDS` a folder holds: where a "clip" is expected, a classifier with its words may stand."""
    is_classifier = (folder / CLASSIFIER_WORDS).is_file() and not (folder / CLIP_CONFIG).is_file()
    return "classifier" if kind == "clip" and is_classifier else kind


def missing(kind: str, folder: Path) -> list[str]:
    """The files that a folder lacks, by their names; "a or b" where one of them would do."""
    known = KINDS[form(kind, folder)]
    lacking = [name for name in known.configs if not (folder / name).is_file()]
    lacking += [" or ".join(group) for group in known.weights if not any((folder / name).is_file() for name in group)]
    forms = known.tokenizer
    if forms and not any(all((folder / name).is_file() for name in form) for form in forms):
        lacking.append(" or ".join(" + ".join(form) for form in forms))
    return lacking
