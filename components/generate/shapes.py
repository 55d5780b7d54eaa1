"""Which sizes and lengths a model saw in training, and a sentence on what would work where another is asked for."""

import math
from collections.abc import Iterable, Mapping, Sequence
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

    def size(
        self,
        height: int | None,
        width: int | None,
        like: tuple[int, int] | None = None,
        num_frames: int | None = None,
        least: int = 1,
    ) -> tuple[int, int]:
        """Answers the size to make: of those that are asked for the model's usual one, or the one nearest in aspect to a picture's.

        Args:
            like: the size of that picture.
            num_frames, least: a length that is asked for, and the shortest that is of use; sizes that have none such come last.

        Raises:
            ValueError: the model saw no such size.
        """
        for name, side in (("height", height), ("width", width)):
            if side is not None and side <= 0:
                raise ValueError(f"`--{name}` is above 0, not {side}; hint: leave it out for the model's own size")
        wanted = [size for size in self.lengths if height in (None, size[0]) and width in (None, size[1])]
        fitting = [size for size, lengths in self.lengths.items() if num_frames in (None, *lengths) and lengths[-1] >= least]
        if not wanted:
            asked = f"`height` {height}" if width is None else f"`width` {width}" if height is None else f"{width}x{height} pixels"
            near = _nearest((height or self.usual[0], width or self.usual[1]), fitting or self.lengths)
            raise ValueError(
                f"the model never saw {asked}, only {listed(f'{width}x{height}' for height, width in sorted(self.lengths))}; "
                f"hint: `--height {near[0]} --width {near[1]}`"
            )
        among = [size for size in wanted if size in fitting] or wanted
        return self.usual if like is None and self.usual in among else _nearest(like or self.usual, among)

    def check_length(self, size: tuple[int, int], least: int) -> None:
        """Looks whether the model saw clips of so many frames at a size.

        Raises:
            ValueError: only at others; names the nearest of them.
        """
        longest = self.lengths[size][-1]
        others = [other for other, lengths in self.lengths.items() if lengths[-1] >= least]
        if longest < least and others:
            near = _nearest(size, others)
            raise ValueError(
                f"the model saw {'only images' if longest == 1 else f'clips of at most {longest} frames'} at {size[1]}x{size[0]}, "
                f"and this takes {least} frames; hint: `--height {near[0]} --width {near[1]}`"
            )

    def length(self, size: tuple[int, int], num_frames: int | None, usual: int | None = None) -> int:
        """Answers the frames of a clip: what is asked for, else the usual length, or the longest that the model saw at that size.

        Raises:
            ValueError: the model saw no clip of that length.
        """
        lengths = self.lengths[size]
        if num_frames is None:
            return usual if usual in lengths else lengths[-1]
        if num_frames not in lengths:
            others = [other for other, seen in self.lengths.items() if num_frames in seen]
            if others:
                height, width = _nearest(size, others)
                hint = f"`--height {height} --width {width}`"
            else:
                longer = " and then `--extend` that video for more" if num_frames > lengths[-1] > 1 else ""
                hint = f"`--num-frames {min(lengths, key=lambda length: abs(length - num_frames))}`{longer}"
            raise ValueError(
                f"the model never saw {'images' if num_frames == 1 else f'clips of {num_frames} frames'} at {size[1]}x{size[0]}, only "
                f"{'images' if lengths == [1] else f'clips of {listed(map(str, lengths))} frames'}; hint: {hint}"
            )
        return num_frames


def _nearest(size: tuple[int, int], among: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Answers which of some sizes is nearest in aspect, and of those in area."""

    def apart(other: tuple[int, int]) -> tuple[float, float]:
        aspect = math.log(other[0] / other[1]) - math.log(size[0] / size[1])
        return round(abs(aspect), 6), abs(math.log(other[0] * other[1]) - math.log(size[0] * size[1]))

    return min(among, key=apart)


def listed(values: Any) -> str:
    """Answers values as a sentence lists them."""
    words: Sequence[str] = list(values)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
