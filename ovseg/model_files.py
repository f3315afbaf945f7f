"""Which files each kind of model is made of. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from emerdiff import layout
from ovseg.towers.clip_config import CLIP_CONFIG, CLIP_WEIGHTS
from ovseg.towers.transformers_config import PREPROCESSOR, TRANSFORMERS_CONFIG, TRANSFORMERS_WEIGHTS, is_transformers
from ovseg.towers.words import CLASSIFIER_CONFIG, CLASSIFIER_WEIGHTS, CLASSIFIER_WORDS


@dataclass(frozen=True)
class Kind:
    """The files of one kind of model, by their paths in its folder."""

    configs: tuple[str, ...]  # JSON; all are needed, by every model of the kind
    settings: tuple[str, ...]  # patterns of what else is fetched before weights
    missing: Callable[[Path], list[str]]  # the files that a folder lacks; "a or b" where one of them would do
    # Patterns of the weights to fetch: of a model whose JSON is in a folder, out of a repository's files.
    weights: Callable[[Path, Collection[str]], list[str]]
    tokenizer: tuple[tuple[str, ...], ...] = ()  # one of these groups is needed, whole; none: it is built in, or varies

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders below the model's own that hold JSON."""
        return tuple(sorted({str(Path(pattern).parent) for pattern in (*self.configs, *self.settings)}))


def _plain(
    configs: tuple[str, ...],
    forms: tuple[str, ...],
    settings: tuple[str, ...] = (),
    tokenizer: tuple[tuple[str, ...], ...] = (),
) -> Kind:
    """A kind whose models all have the same configs, and weights in one of `forms`: the first that is there is read.

    A form is a file of weights, or the index of several, which is fetched before weights are.
    """

    def missing(folder: Path) -> list[str]:
        lacking = [name for name in configs if not (folder / name).is_file()]
        lacking += layout.absent_weights(folder, forms)
        if tokenizer and not any(all((folder / name).is_file() for name in group) for group in tokenizer):
            lacking.append(" or ".join(" + ".join(group) for group in tokenizer))
        return lacking

    def fetched(folder: Path, present: Collection[str]) -> list[str]:
        form = next((name for name in forms if name in present), None)
        return layout.single_files(forms) if form is None else layout.shards(folder, form)

    indices = tuple(name for name in forms if name.endswith(".json"))
    return Kind(configs, (*settings, *indices), missing, fetched, tokenizer)


def _diffusion_weights(folder: Path, present: Collection[str]) -> list[str]:
    """Of each part the first form of weights that the repository has; an index is fetched with the JSON."""
    forms = [layout.first_form(part, present) for part in layout.parts(folder)]
    return [name for form in forms if form is not None for name in layout.shards(folder, form)]


TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt")
KINDS: dict[str, Kind] = {
    "diffusion": Kind(  # of diffusers
        configs=(layout.UNET, layout.VAE, layout.SCHEDULER),
        settings=layout.JSON,
        missing=layout.missing_files,
        weights=_diffusion_weights,
    ),
    "clip": _plain((CLIP_CONFIG,), CLIP_WEIGHTS, TOKENIZER),  # of open_clip
    "transformers-clip": _plain(
        (TRANSFORMERS_CONFIG,),
        TRANSFORMERS_WEIGHTS,
        (*TOKENIZER, PREPROCESSOR),
        (("tokenizer.json",), ("vocab.json", "merges.txt")),
    ),
    "classifier": _plain((CLASSIFIER_CONFIG, CLASSIFIER_WORDS), (CLASSIFIER_WEIGHTS,)),  # of `ovseg.towers.classifier`
}


FORMS: dict[str, tuple[str, ...]] = {  # in which a repository of the hub may hold what is asked for
    "diffusion": ("diffusion",),
    "clip": ("clip", "classifier", "transformers-clip"),
}


def form(kind: str, folder: Path) -> str:
    """Which of `KINDS` a folder holds: where a "clip" is expected, three may stand."""
    if kind != "clip" or (folder / CLIP_CONFIG).is_file():
        return kind
    if (folder / CLASSIFIER_WORDS).is_file():
        return "classifier"
    return "transformers-clip" if is_transformers(folder) else kind


def missing(kind: str, folder: Path) -> list[str]:
    """The files that a folder lacks, by their names; "a or b" where one of them would do."""
    return KINDS[form(kind, folder)].missing(folder)


def form_of(kind: str, present: Collection[str]) -> str:
    """Which of `KINDS` a repository with these files holds, where a model of a kind is asked for."""
    return next((name for name in FORMS[kind] if set(KINDS[name].configs) <= set(present)), kind)
