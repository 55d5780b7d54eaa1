"""Faults of captions that a machine can see: empty, too long, repeating themselves, or all the same. Stdlib alone."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.sections import Caption

FEW = 10  # below so many captions nothing can be said of their variety


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a table's captions: clips by fault, and sentences for a person."""

    faults: Mapping[str, int]
    warnings: tuple[str, ...]


def check_captions(captions: Sequence[str | None], settings: "Caption", labels: Sequence[str | None] = ()) -> Verdict:
    """Checks the captions of a table.

    Args:
        labels: what is known of the same or other clips; when these are many and yet the same, so may be the captions.
    """
    faults = Counter(fault for caption in captions if (fault := fault_of(caption, settings)))
    warnings = [f"{count} of {len(captions)} captions are {fault}" for fault, count in sorted(faults.items())]
    if (collapse := _collapse(captions, settings, labels)) is not None:
        warnings.append(collapse)
    return Verdict(dict(faults), tuple(warnings))


def fault_of(caption: str | None, settings: "Caption") -> str | None:
    """Names what is wrong with one caption: empty, too long, repeating; None when nothing is."""
    words = re.findall(r"[\w'-]+", (caption or "").lower())
    if not words:
        return "empty"
    if len(words) > settings.max_words:
        return "too long"
    if _repeats(words, settings.max_repeated_words):
        return "repeating"
    return None


def _repeats(words: Sequence[str], least: int) -> bool:
    """Finds words said again at once: one word three times on end, or a run of at least `least` words twice on end."""
    if any(words[i] == words[i + 1] == words[i + 2] for i in range(len(words) - 2)):
        return True
    for length in range(least, len(words) // 2 + 1):
        if any(words[i : i + length] == words[i + length : i + 2 * length] for i in range(len(words) - 2 * length + 1)):
            return True
    return False


def _collapse(captions: Sequence[str | None], settings: "Caption", labels: Sequence[str | None]) -> str | None:
    said = Counter(caption for caption in captions if caption)
    if said.total() < FEW:
        return None
    caption, count = said.most_common(1)[0]
    share = count / said.total()
    told = Counter(label for label in labels if label)
    expected = told.most_common(1)[0][1] / told.total() if told.total() >= FEW else 0.0
    if share <= max(settings.max_same_share, 1.5 * expected):
        return None
    return (
        f"one caption stands for {share:.0%} of the clips (`{caption}`), so the captioner may have collapsed; "
        "hint: more labelled clips, or more `captioner.steps`"
    )
