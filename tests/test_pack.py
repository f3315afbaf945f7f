"""Packing responses: worked examples, and what must hold for any responses."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from emerdiff.pack import Fit, pack, unpack

WHOLE, APART = Fit(core=0.7, margin=3, apart=False), Fit(core=0.8, margin=2, apart=True)


def spots(places: list[tuple[int, int]], size: int = 24) -> torch.Tensor:
    """A response for each place: 1 + its number in one position and its eight neighbours, in the first channel."""
    responses = torch.zeros(len(places), 4, size, size)
    for mask, (y, x) in enumerate(places):
        responses[mask, 0, y - 1 : y + 2, x - 1 : x + 2] = mask + 1
    return responses


def test_far_responses_share_a_latent_and_near_ones_do_not():
    packed = pack(spots([(4, 4), (4, 18), (18, 4), (18, 18)]), WHOLE)
    assert len(packed.latents) == 1
    assert [packed.owners[0, y, x] for y, x in ((4, 4), (4, 18), (18, 4), (18, 18))] == [0, 1, 2, 3]
    torch.testing.assert_close(packed.latents[0], spots([(4, 4), (4, 18), (18, 4), (18, 18)]).sum(dim=0))
    # The second lies between the others, too near to both; these are far enough from each other.
    near = pack(spots([(11, 8), (11, 11), (11, 14)]), WHOLE)
    assert sorted(sorted(set(owners[owners >= 0].tolist())) for owners in near.owners) == [[0, 2], [1]]


def test_every_mask_competes_where_it_is_strong():
    responses = torch.zeros(2, 4, 20, 20)
    responses[0, :, :, :10], responses[1, :, :, 10:] = 1.0, 1.0
    packed = pack(responses, WHOLE)
    assert len(packed.latents) == 2
    # Each mask's window is its half and a margin (one position more, by the smoothing); nothing is anybody's beyond it.
    columns = [sorted(set(np.flatnonzero((packed.owners[group] >= 0).any(axis=0)).tolist())) for group in (0, 1)]
    assert sorted(columns) == [list(range(10 + WHOLE.margin)), list(range(10 - WHOLE.margin, 20))]


def test_parts_of_a_mask_may_lie_in_several_latents() -> None:
    """Four spots of 0 round one of 1 that has room beside one of them alone: whole, or as parts, that is two latents;
    but with a mask whose spots are all over, parts are packed tighter."""
    around = spots([(5, 5), (5, 17), (17, 5), (17, 17)]).amax(dim=0).clamp(max=1)
    responses = torch.stack([around, *spots([(5, 11)]), *spots([(11, 5)])])
    found = pack(responses, APART)
    for mask, response in enumerate(responses):
        owned = (found.owners == mask).any(axis=0)
        assert owned[response[0].numpy() > 0].all()
        assert (found.owners == mask).sum(axis=0).max() == 1  # no position twice
    assert torch.equal(unpack(found.latents, found.owners, 3), responses)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    masks=st.integers(1, 12),
    side=st.sampled_from([6, 9, 16]),
    wide=st.booleans(),
    fit=st.sampled_from([WHOLE, APART]),
)
def test_packed_latents_are_the_responses_themselves(seed: int, masks: int, side: int, wide: bool, fit: Fit):
    random = torch.Generator().manual_seed(seed)
    responses = torch.randn(masks, 4, side, side + 3 * wide, generator=random) ** 3
    packed = pack(responses, fit)
    assert packed.latents.shape[1:] == responses.shape[1:]
    groups, height, width = packed.owners.shape
    for group in range(groups):
        for y in range(height):
            for x in range(width):
                owner = packed.owners[group, y, x]
                expected = responses[owner, :, y, x] if owner >= 0 else torch.zeros(4)
                assert torch.equal(packed.latents[group, :, y, x], expected)
    for mask in range(masks):  # whole, a mask lies in one latent alone; in parts, each position of it does
        owned = packed.owners == mask
        assert owned.sum(axis=0).max() <= 1 and (fit.apart or owned.any(axis=(1, 2)).sum() <= 1)
    # What comes back is every mask inside its windows.
    back = unpack(packed.latents, packed.owners, masks)
    windows = torch.from_numpy(np.stack([(packed.owners == mask).any(axis=0) for mask in range(masks)]))
    assert torch.equal(back, responses * windows[:, None])


def test_no_response_at_all_is_packed_too() -> None:
    for fit in (WHOLE, APART):
        packed = pack(torch.zeros(3, 4, 8, 8), fit)
        assert not packed.latents.any() and not unpack(packed.latents, packed.owners, 3).any()


def test_no_core_is_given_away():
    """Wherever a mask's response is at least the core's share of the largest, it owns the position in a latent."""
    responses = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(3)).cumsum(dim=2).cumsum(dim=3)
    size = np.stack([gaussian_filter(one.norm(dim=0).numpy(), 0.5) for one in responses])
    for fit in (WHOLE, APART):
        packed = pack(responses, fit)
        for mask, core in enumerate(size >= fit.core * size.max(axis=0)):
            assert (packed.owners == mask).any(axis=0)[core].all()


def test_responses_go_back_to_their_masks():
    owners = np.array([[[0, 0, -1]], [[1, 2, 2]]])  # two latents of 1x3
    latents = torch.arange(1.0, 13.0).reshape(2, 2, 1, 3)
    found = unpack(latents, owners, masks=4)
    assert found.shape == (4, 2, 1, 3)
    assert found[0].flatten(1).tolist() == [[1, 2, 0], [4, 5, 0]]
    assert found[1].flatten(1).tolist() == [[7, 0, 0], [10, 0, 0]]
    assert found[2].flatten(1).tolist() == [[0, 8, 9], [0, 11, 12]]
    assert not found[3].any()
