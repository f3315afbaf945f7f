"""What a text tower cuts off of a name: CLIP's reads 77 tokens and takes no notice of the words behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MOST_SHOWN = 40  # characters of a name in a message about its length


def check_lengths(
    prompts: Sequence[str], templates: Sequence[str], count_tokens: Callable[[str], int], limit: int
) -> tuple[str, ...]:
    """What of class names in sentences a text tower does not read.

    Args:
        prompts: class names and aliases.
        templates: sentences with one "{}" each, where the prompt goes.
        count_tokens: sentence -> its tokens, those for its start and end included, before anything is cut.
        limit: tokens that the tower reads (its context length).
    Returns:
        Lines to tell the user: each prompt that is cut in the longest of the sentences, but whole in the shortest.
    Raises:
        ValueError: a prompt that is cut even in the shortest sentence, so that its end would decide nothing.
    """
    shortest, longest = min(templates, key=count_tokens), max(templates, key=count_tokens)
    notes = []
    for prompt in prompts:
        shown = repr(prompt if len(prompt) <= MOST_SHOWN else f"{prompt[:MOST_SHOWN]}...")
        if (count := count_tokens(shortest.replace("{}", prompt))) > limit:
            raise ValueError(
                f"class name {shown}: expected at most {limit} tokens in {shortest!r}, got {count}: shorten it"
            )
        if (count := count_tokens(longest.replace("{}", prompt))) > limit:
            notes.append(f"cut off after {limit} tokens in the longest templates, which have {count}: {shown}")
    return tuple(notes)
