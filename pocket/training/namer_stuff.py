"""Stuff for the namer, without a mask: a classifier row each for sky, sea, road, building, tree and snow.

They are learned from photographs that are tagged as a whole (Intel's scene set: buildings, forest, glacier, mountain,
sea, street), from where in such a photo what the tag promises is most often seen: the sky at its top, a road at its
bottom. The network stays as it is; a row is a linear function of its own 1,000 logits at a position, and competes with
them. The middle of photographs of ImageNet's objects says what is none of it.

`learn` takes features of 160x160 pixels, the 5x5 positions before the pooling.
"""

from __future__ import annotations

import torch
from torch import Tensor

STUFF = ("sky", "sea", "road", "building", "tree", "snow")  # in the order of their rows, behind the classes
WORDS = {
    "sky": ("sky",),
    "sea": ("sea", "ocean", "water", "river", "lake"),
    "road": ("road", "street", "pavement", "asphalt"),
    "building": ("building", "house", "skyscraper"),
    "tree": ("tree", "forest", "woods"),
    "snow": ("snow", "ice"),
}
# Tag of a photo -> what each of its five rows of positions, from the top, is taken for; None: not used.
PLACES: dict[str, tuple[str | None, ...]] = {
    "forest": ("tree",) * 5,
    "sea": ("sky", None, "sea", "sea", "sea"),
    "mountain": ("sky", None, None, None, None),
    "glacier": ("sky", None, "snow", "snow", "snow"),
    "street": ("building", "building", "building", None, "road"),
    "buildings": (None, "building", "building", "building", "building"),
}
TEMPERATURE = 2.0  # of the classes' logits, as the namer is used
SHRINKAGE = 1e-3  # weight of the rows' squared norm
CAUTION = 7.0  # by which stuff is held back; chosen on the tuning photos so that no thing's IoU is lost


def learn(weight: Tensor, bias: Tensor, tagged: dict[str, Tensor], objects: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and biases to put below a classifier's own.

    weight (1000, F), bias (1000,): the classifier. tagged: tag -> features (n, F, 5, 5) of photos of that tag; objects:
    features (n, F, 5, 5) of photos of ImageNet's classes. Returns (6, F) and (6,).
    """

    def logits(features: Tensor) -> Tensor:
        return torch.einsum("kf,nfhw->nhwk", weight, features) + bias

    positions, kinds = [], []
    for tag, features in tagged.items():
        for row, kind in enumerate(PLACES[tag]):
            if kind is not None:
                positions.append(logits(features)[:, row].flatten(0, 1))
                kinds += [STUFF.index(kind)] * len(positions[-1])
    stuff, others = torch.cat(positions), logits(objects)[:, 1:4, 1:4].flatten(0, 2)
    rows, offsets = _fit(stuff, torch.tensor(kinds), others)
    offsets = offsets - rows @ stuff.mean(dim=0) - CAUTION
    return TEMPERATURE * rows @ weight, TEMPERATURE * (rows @ bias + offsets)


def _fit(stuff: Tensor, kinds: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression of what stands against all classes together; kinds weigh the same, all others as much."""
    centre, rows, offsets = stuff.mean(dim=0), torch.zeros(len(STUFF), stuff.shape[1]), torch.zeros(len(STUFF))
    parameters = [rows.requires_grad_(), offsets.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=60, line_search_fn="strong_wolfe")
    shares = (1 / torch.bincount(kinds).float())[kinds]

    def log_probabilities(logits: Tensor) -> Tensor:
        classes = torch.logsumexp(logits / TEMPERATURE, dim=1, keepdim=True)
        return torch.log_softmax(torch.cat([classes, (logits - centre) @ rows.T + offsets], dim=1), dim=1)

    def loss() -> Tensor:
        optimizer.zero_grad()
        right = log_probabilities(stuff)[torch.arange(len(kinds)), kinds + 1]
        total = -(right * shares).sum() / shares.sum() - log_probabilities(others)[:, 0].mean()
        total = total + SHRINKAGE * (rows**2).sum()
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[arg-type]
    return rows.detach(), offsets.detach()
