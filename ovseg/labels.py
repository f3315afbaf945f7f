"""From dense features to labels, one a mask or one a pixel: scores of the prompts, the background rule, the best name.

Labels of masks follow EmerDiff's use with CLIP (arXiv 2401.11739): the mean feature of a mask, its cosine with the text
embeddings, softmax with CLIP's logit scale, best class. Labels of pixels, and aliases in both, are scored as SCLIP
(arXiv 2312.01597) and its successors do: softmax over all prompts, and a class takes its best one. How features and
text become logits is the model's own (`ovseg.towers.scoring`). Arrays in, arrays out: no network, no file, no image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ovseg.classes import Vocabulary
from ovseg.towers.regions import neighbours
from ovseg.towers.scoring import READINGS, Scoring

Tile = tuple[tuple[slice, slice], np.ndarray]  # where it lies, rows and columns, and its logits
BAND_VALUES = 2**18  # prompts times pixels that `label_pixels` works on at once, in some seven arrays of float64


def label_masks(
    mask_features: np.ndarray,
    text: np.ndarray,
    vocabulary: Vocabulary,
    scoring: Scoring,
    pixels: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of every mask, and its label.

    Args:
        mask_features: (K, C) float, any length.
        text: (P, C) float, one row per `vocabulary.prompts`; of length 1 for CLIP.
        vocabulary: names and which prompt speaks for which.
        scoring: how both become probabilities (`Clip.scoring`, `Classifier.scoring`).
        pixels: (K,) int, how many each mask has, for a vocabulary with an `area`; None: all the same.
    Returns:
        probabilities (K, L) float32: of a name's best prompt among all P (so rows need not sum to 1).
        A background that is a threshold alone has the threshold itself as its probability.
        best (K,) int32: index into `vocabulary.names`; background where the best class stays below the threshold.
    Raises:
        ValueError: text that does not fit the vocabulary or the features, or numbers that are not finite.
    """
    if text.shape != (len(vocabulary.prompts), mask_features.shape[-1]) or mask_features.ndim != 2:
        raise ValueError(
            f"text must be ({len(vocabulary.prompts)} prompts, C) and mask_features (K, C), "
            f"got {text.shape} and {mask_features.shape}"
        )
    _check_finite(text, mask_features)
    masks = READINGS[scoring.reading].masks
    logits = masks(text.astype(np.float64), mask_features.astype(np.float64), scoring.scale)
    return label_logits(logits, vocabulary, scoring, pixels)


def label_logits(
    logits: np.ndarray, vocabulary: Vocabulary, scoring: Scoring, pixels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `label_masks`, from the masks' logits (P, K), scaled and without the scoring's bias."""
    probabilities = _by_name(logits, vocabulary, scoring)
    if vocabulary.area is not None:
        best = probabilities.argmax(axis=0)
        counts = np.bincount(best, pixels, minlength=len(vocabulary.names))
        probabilities *= _large(counts, vocabulary.area)[:, None]
    best = best_names(probabilities, vocabulary)
    return probabilities.T.astype(np.float32), best.astype(np.int32)


def label_pixels(
    features: np.ndarray,
    text: np.ndarray,
    vocabulary: Vocabulary,
    scoring: Scoring,
    size: tuple[int, int],
    refine_by: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The label of every pixel, without masks: maps of the prompts' logits upsampled to the image, then the best name.

    Args:
        features: (C, h, w) float, as `Clip.dense_features` gives them. Not normalised here: where windows overlap
            CLIP's are shorter than 1, and the dot product with a text embedding is the mean of the windows' cosines.
        text, vocabulary, scoring: as in `label_masks`.
        size: (H, W) of the image; upsampling is bilinear, align_corners=False.
        refine_by: the image (H, W, 3) uint8, whose edges the maps are to follow by PAMR (`ovseg.pamr`); None: as they
            are.
    Returns:
        labels (H, W) int32, index into `vocabulary.names`; background as in `label_masks`.
        probabilities (H, W) float32, of each pixel's label. Both are worked out in float64, PAMR in float32.
    Raises:
        ValueError: text that does not fit the vocabulary or the features, or numbers that are not finite.
    """
    if features.ndim != 3 or text.shape != (len(vocabulary.prompts), features.shape[0]):
        raise ValueError(
            f"text must be ({len(vocabulary.prompts)} prompts, C) and features (C, h, w), "
            f"got {text.shape} and {features.shape}"
        )
    _check_finite(text, features)
    (height, width), (h, w) = size, features.shape[1:]
    cells = READINGS[scoring.reading].cells
    logits = cells(text.astype(np.float64), features.astype(np.float64), scoring.scale)
    if refine_by is not None:
        from ovseg.pamr import refined_maps

        image = refine_by
        return label_tiles(lambda: refined_maps(image, logits), vocabulary, scoring, size)
    (above, above_share), (below, below_share) = neighbours(height, h)
    (left, left_share), (right, right_share) = neighbours(width, w)

    def bands() -> Iterator[Tile]:
        for rows in bands_of_rows(len(text), size):
            part = logits[:, above[rows]] * above_share[rows, None] + logits[:, below[rows]] * below_share[rows, None]
            yield (rows, slice(0, width)), part[:, :, left] * left_share + part[:, :, right] * right_share

    return label_tiles(bands, vocabulary, scoring, size)


def bands_of_rows(prompts: int, size: tuple[int, int]) -> Iterator[slice]:
    """The rows of an image of (H, W), cut into bands whose logits for so many prompts are no more than `BAND_VALUES`
    numbers, or a row."""
    rows = max(1, BAND_VALUES // (prompts * size[1]))
    return (slice(top, min(top + rows, size[0])) for top in range(0, size[0], rows))


def label_tiles(
    tiles: Callable[[], Iterable[Tile]], vocabulary: Vocabulary, scoring: Scoring, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """As `label_pixels`, from the logits of every pixel, worked out in their own precision.

    tiles: gives the image's logits part by part, each (P, rows, columns), scaled and without the scoring's bias, with
    its place. It is called twice for a vocabulary with an `area`.
    """
    large = np.ones(len(vocabulary.names))
    if vocabulary.area is not None:
        counts = np.zeros(len(vocabulary.names), np.int64)
        for _, logits in tiles():
            best = _by_name(logits.reshape(len(logits), -1), vocabulary, scoring).argmax(axis=0)
            counts += np.bincount(best, minlength=len(counts))
        large = _large(counts, vocabulary.area)
    labels, scores = np.zeros(size, np.int32), np.zeros(size, np.float32)
    for place, logits in tiles():
        probabilities = _by_name(logits.reshape(len(logits), -1), vocabulary, scoring)
        if vocabulary.area is not None:
            probabilities *= large[:, None]
        best = best_names(probabilities, vocabulary)
        labels[place] = best.reshape(logits.shape[1:])
        scores[place] = probabilities[best, np.arange(best.size)].reshape(logits.shape[1:])
    return labels, scores


def vote(labels: np.ndarray, segments: np.ndarray, names: int) -> tuple[np.ndarray, np.ndarray]:
    """The name that most pixels of a mask have, whatever their scores (CorrCLIP's map correction, arXiv 2411.10086).

    labels (H, W) int, indices of so many names; segments (H, W) int, ids 0..K-1. Returns (K, L) float32, each name's
    share of a mask's pixels, zeros for an id that no pixel has; and best (K,) int32, the first of equals.
    """
    count = int(segments.max()) + 1
    votes = np.bincount(segments.ravel().astype(np.int64) * names + labels.ravel(), minlength=count * names)
    votes = votes.reshape(count, names)
    shares = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    return shares.astype(np.float32), votes.argmax(axis=1).astype(np.int32)


def _check_finite(text: np.ndarray, features: np.ndarray) -> None:
    for name, array in (("text embeddings", text), ("features", features)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def background_bias(vocabulary: Vocabulary) -> np.ndarray:
    """(P,) float64: what is added to each prompt's logit for the sake of the background."""
    return np.where(np.asarray(vocabulary.owners) == 0, vocabulary.bias, 0.0)


def check_threshold(vocabulary: Vocabulary, scoring: Scoring) -> tuple[str, ...]:
    """Lines to tell of a background threshold that cannot act beside background words, which do without it.

    Of P probabilities that add up to 1 the largest is 1/P at least, and where it is a background word's the background
    has won already. So a threshold of 1/P or less decides nothing. (With an `area` names give way, and it may.)
    Raises ValueError where the threshold is all the background there is: no pixel would ever be background.
    """
    prompts, threshold = len(vocabulary.prompts), vocabulary.threshold
    if threshold is None or scoring.rule != "softmax" or vocabulary.area is not None or threshold > 1 / prompts:
        return ()
    means = f"{prompts} prompt{'' if prompts == 1 else 's'}, of which the best has a probability of {1 / prompts:.3g}"
    if 0 in vocabulary.owners:
        return (f"background: threshold={threshold:g} has no effect over {means} at least; its words alone decide",)
    above = "" if prompts == 1 else f", choose one above {1 / prompts:.3g}"
    raise ValueError(
        f"background: threshold={threshold:g} can never act over {means} at least; name more of what is in the "
        f"picture{above}, or let background words compete (words)"
    )


def _by_name(logits: np.ndarray, vocabulary: Vocabulary, scoring: Scoring) -> np.ndarray:
    """Logits of P prompts for n things, (P, n), without their bias, to each name's probability (L, n): that of its
    best prompt among all P. A name without a prompt, which a background by threshold is, has 0. A prompt of two names
    has the same logits for both, whatever rounding made of them."""
    first_of = {prompt: row for row, prompt in reversed(list(enumerate(vocabulary.prompts)))}
    if len(first_of) < len(vocabulary.prompts):
        logits = logits[[first_of[prompt] for prompt in vocabulary.prompts]]
    logits = logits + np.array(scoring.bias, logits.dtype)
    if vocabulary.bias:
        logits += background_bias(vocabulary).astype(logits.dtype)[:, None]
    probabilities = scoring.probabilities(logits)
    order = np.argsort(vocabulary.owners, kind="stable")
    named, first = np.unique(np.asarray(vocabulary.owners)[order], return_index=True)
    by_name = np.zeros((len(vocabulary.names), logits.shape[1]), logits.dtype)
    by_name[named] = np.maximum.reduceat(probabilities[order], first)
    return by_name


def _large(counts: np.ndarray, area: float) -> np.ndarray:
    """(L,) float64, 1 for the background and for names that are best in more than `area` of the pixels (L,) of all
    names, 0 for those that give way to the others (SCLIP's rule for VOC)."""
    large = (counts > area * counts[1:].sum()).astype(np.float64)
    large[0] = 1
    return large


def best_names(by_name: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The best name (n,) of probabilities (L, n). The background is best where no other name reaches the threshold,
    whatever its own words say; without words of its own it gets the threshold as its probability here."""
    best = by_name.argmax(axis=0)
    if vocabulary.threshold is not None:
        best[by_name[1:].max(axis=0) < vocabulary.threshold] = 0
        if 0 not in vocabulary.owners:
            by_name[0] = vocabulary.threshold
    return best
