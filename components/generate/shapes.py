"""Which sizes and lengths a model saw in training, and a sentence on what would work where another is asked for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.models.tiles import StreamingVae


class Shapes:
    """The sizes (height, width) that a model saw, and at each the lengths, in frames; an image has one.

    Args:
        notes: what training noted: the shapes of latents, and the clip that the model makes when nothing is asked for.
    """

    def __init__(self, notes: Mapping[str, Any], vae: StreamingVae) -> None:
        clip = notes["clip"]
        self.usual = (int(clip["height"]), int(clip["width"]))
        self.lengths: dict[tuple[int, int], list[int]] = {}
        for _, frames, rows, columns in notes["latents_shapes"]:
            lengths = self.lengths.setdefault((rows * vae.side, columns * vae.side), [])
            length = 1 + (frames - 1) * vae.frames
            if length not in lengths:
                lengths.append(length)
        for lengths in self.lengths.values():
            lengths.sort()
        if self.usual not in self.lengths:
            self.usual = next(iter(self.lengths))

    def size(self, height: int | None, width: int | None, like: tuple[int, int] | None = None) -> tuple[int, int]:
        """Answers the size to make: what is asked for, else the model's usual one, or the seen one nearest in aspect to a picture's.

        Raises:
            ValueError: the model saw no such size.
        """
        for name, side in (("height", height), ("width", width)):
            if side is not None and side <= 0:
                raise ValueError(f"`--{name}` is above 0, not {side}; hint: leave it out for the model's own size")
        if height is None and width is None:
            return self.usual if like is None else self._nearest(like)
        wanted = [size for size in self.lengths if height in (None, size[0]) and width in (None, size[1])]
        if self.usual in wanted:
            return self.usual
        if not wanted:
            asked = f"`height` {height}" if width is None else f"`width` {width}" if height is None else f"{width}x{height} pixels"
            near = self._nearest((height or self.usual[0], width or self.usual[1]))
            raise ValueError(
                f"the model never saw {asked}, only {listed(f'{width}x{height}' for height, width in sorted(self.lengths))}; "
                f"hint: `--height {near[0]} --width {near[1]}`"
            )
        return wanted[0]

    def length(self, size: tuple[int, int], num_frames: int | None, usual: int | None = None) -> int:
        """Answers the frames of a clip: what is asked for, else the usual length, or the longest that the model saw at that size.

        Raises:
            ValueError: the model saw no clip of that length.
        """
        lengths = self.lengths[size]
        if num_frames is None:
            return usual if usual in lengths else lengths[-1]
        if num_frames not in lengths:
            near = min(lengths, key=lambda length: abs(length - num_frames))
            longer = " and then `--extend` that video for more" if num_frames > lengths[-1] else ""
            raise ValueError(
                f"the model never saw {'images' if num_frames == 1 else f'clips of {num_frames} frames'} at {size[1]}x{size[0]}, only "
                f"clips of {listed(map(str, lengths))} frames; "
                f"hint: `--num-frames {near}`{longer}"
            )
        return num_frames

    def _nearest(self, size: tuple[int, int]) -> tuple[int, int]:
        """Answers the seen size that is nearest in aspect, and of those in area."""

        def apart(seen: tuple[int, int]) -> tuple[float, float]:
            aspect = math.log(seen[0] / seen[1]) - math.log(size[0] / size[1])
            return round(abs(aspect), 6), abs(math.log(seen[0] * seen[1]) - math.log(size[0] * size[1]))

        return min(self.lengths, key=apart)


def listed(values: Any) -> str:
    """Answers values as a sentence lists them."""
    words: Sequence[str] = list(values)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
