"""Packing responses: worked examples, and what must hold for any responses."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from emerdiff.pack import CORE, MARGIN, pack, unpack


def spots(places: list[tuple[int, int]], size: int = 24) -> torch.Tensor:
    """A response for each place: 1 + its number in one position and its eight neighbours, in the first channel."""
    responses = torch.zeros(len(places), 4, size, size)
    for mask, (y, x) in enumerate(places):
        responses[mask, 0, y - 1 : y + 2, x - 1 : x + 2] = mask + 1
    return responses


def test_far_responses_share_a_latent_and_near_ones_do_not():
    packed = pack(spots([(4, 4), (4, 18), (18, 4), (18, 18)]))
    assert len(packed.latents) == 1
    assert [packed.owners[0, y, x] for y, x in ((4, 4), (4, 18), (18, 4), (18, 18))] == [0, 1, 2, 3]
    torch.testing.assert_close(packed.latents[0], spots([(4, 4), (4, 18), (18, 4), (18, 18)]).sum(dim=0))
    # The second lies between the others, too near to both; these are far enough from each other.
    near = pack(spots([(11, 8), (11, 11), (11, 14)]))
    assert sorted(sorted(set(owners[owners >= 0].tolist())) for owners in near.owners) == [[0, 2], [1]]


def test_every_mask_competes_where_it_is_strong():
    responses = torch.zeros(2, 4, 20, 20)
    responses[0, :, :, :10], responses[1, :, :, 10:] = 1.0, 1.0
    packed = pack(responses)
    assert len(packed.latents) == 2
    # Each mask's window is its half and a margin (one position more, by the smoothing); nothing is anybody's beyond it.
    columns = [sorted(set(np.flatnonzero((packed.owners[group] >= 0).any(axis=0)).tolist())) for group in (0, 1)]
    assert sorted(columns) == [list(range(10 + MARGIN)), list(range(10 - MARGIN, 20))]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), masks=st.integers(1, 12), side=st.sampled_from([6, 9, 16]), wide=st.booleans())
def test_packed_latents_are_the_responses_themselves(seed: int, masks: int, side: int, wide: bool):
    random = torch.Generator().manual_seed(seed)
    responses = torch.randn(masks, 4, side, side + 3 * wide, generator=random) ** 3
    packed = pack(responses)
    assert packed.latents.shape[1:] == responses.shape[1:] and len(packed.latents) <= masks
    groups, height, width = packed.owners.shape
    for group in range(groups):
        for y in range(height):
            for x in range(width):
                owner = packed.owners[group, y, x]
                expected = responses[owner, :, y, x] if owner >= 0 else torch.zeros(4)
                assert torch.equal(packed.latents[group, :, y, x], expected)
    # A mask lies in one latent alone, and the strongest one of a position is there.
    for mask in range(masks):
        assert sum(bool((packed.owners[group] == mask).any()) for group in range(groups)) <= 1


def test_no_core_is_given_away():
    """Wherever a mask's response is at least CORE of the largest, it owns the position in its latent."""
    responses = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(3)).cumsum(dim=2).cumsum(dim=3)
    packed = pack(responses)
    size = np.stack([gaussian_filter(one.norm(dim=0).numpy(), 0.5) for one in responses])
    for mask, core in enumerate(size >= CORE * size.max(axis=0)):
        owned = (packed.owners == mask).any(axis=0)
        assert owned[core].all()


def test_maps_go_back_to_their_masks():
    owners = np.array([[[0, 0, -1]], [[1, 2, 2]]])  # two latents of 1x3
    maps = torch.arange(1.0, 25.0).reshape(2, 2, 6)  # factor 2
    found = unpack(maps, owners, masks=4)
    assert found.shape == (4, 2, 6)
    assert found[0].tolist() == [[1, 2, 3, 4, 0, 0], [7, 8, 9, 10, 0, 0]]
    assert found[1].tolist() == [[13, 14, 0, 0, 0, 0], [19, 20, 0, 0, 0, 0]]
    assert found[2].tolist() == [[0, 0, 15, 16, 17, 18], [0, 0, 21, 22, 23, 24]]
    assert not found[3].any()
