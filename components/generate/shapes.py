"""Which sizes and lengths a model saw in training, and a sentence on what would work where another is asked for."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from components.models.tiles import StreamingVae

OfUse = Callable[[list[int]], list[int]]  # the lengths of a size -> those that what is asked for can be made with


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
        of_use: OfUse = list,
    ) -> tuple[int, int]:
        """Answers the size to make: of those that are asked for the model's usual one, or the one nearest in aspect to a picture's.

        Args:
            like: the size of that picture.
            num_frames: a length that is asked for; sizes that have it not, or no length of use, come last.
            of_use: answers which of a size's lengths are of use.

        Raises:
            ValueError: the model saw no such size.
        """
        for name, side in (("height", height), ("width", width)):
            if side is not None and side <= 0:
                raise ValueError(f"`--{name}` is above 0, not {side}; hint: leave it out for the model's own size")
        wanted = [size for size in self.lengths if height in (None, size[0]) and width in (None, size[1])]
        if not wanted:
            asked = f"`height` {height}" if width is None else f"`width` {width}" if height is None else f"{width}x{height} pixels"
            there = (height or self.usual[0], width or self.usual[1])
            raise ValueError(
                f"the model never saw {asked}, only {listed(f'{width}x{height}' for height, width in sorted(self.lengths))}; "
                f"hint: {self._way(there, num_frames, of_use) or _options(_nearest(there, self.lengths))}"
            )
        useful = {size: of_use(self.lengths[size]) for size in wanted}
        among = [size for size in wanted if num_frames in useful[size]] or [size for size in wanted if useful[size]] or wanted
        return self.usual if like is None and self.usual in among else _nearest(like or self.usual, among)

    def check_length(self, size: tuple[int, int], least: int, num_frames: int | None, of_use: OfUse) -> None:
        """Looks whether any of the lengths that the model saw at a size are of use.

        Args:
            least: frames that its clips have to have; 1 is said of an image.
            num_frames, of_use: as for `size`.

        Raises:
            ValueError: they are so at others; names the nearest of them.
        """
        lengths = self.lengths[size]
        way = None if of_use(lengths) else self._way(size, num_frames, of_use)
        if way is not None:
            many = f"only {_said(lengths)}" if least == 1 or lengths == [1] else f"clips of at most {lengths[-1]} frames"
            raise ValueError(
                f"the model saw {many} at {size[1]}x{size[0]}, and this takes {f'{least} frames' if least > 1 else 'an image'}; hint: {way}"
            )

    def length(self, size: tuple[int, int], num_frames: int | None, usual: int | None = None, of_use: OfUse = list) -> int:
        """Answers the frames of a clip: what is asked for, else the usual length, or the longest that the model saw at that size.

        Args:
            of_use: as for `size`; for the way out alone.

        Raises:
            ValueError: the model saw no clip of that length.
        """
        lengths = self.lengths[size]
        if num_frames is None:
            return usual if usual in lengths else lengths[-1]
        if num_frames not in lengths:
            way = self._way(size, num_frames, of_use) or "a model that was trained on longer clips"
            longer = " and then `--extend` that video for more" if num_frames > lengths[-1] > 1 and way.startswith("`--num-frames") else ""
            raise ValueError(
                f"the model never saw {'images' if num_frames == 1 else f'clips of {num_frames} frames'} at {size[1]}x{size[0]}, only "
                f"{_said(lengths)}; hint: {way}{longer}"
            )
        return num_frames

    def _way(self, size: tuple[int, int], num_frames: int | None, of_use: OfUse) -> str | None:
        """Answers the options of what is of use and nearest: the length that is asked for at another size, another length, or both."""
        useful = {other: found for other, lengths in self.lengths.items() if (found := of_use(lengths))}
        fitting = [other for other, found in useful.items() if num_frames in (None, *found)]
        if not useful:
            return None
        if fitting:
            return _options(_nearest(size, fitting))
        assert num_frames is not None
        films = [other for other, found in useful.items() if found[-1] > 1 < num_frames]
        near = size if size in useful else _nearest(size, films or useful)
        length = nearest_length(num_frames, useful[near])
        return f"`--num-frames {length}`" if near == size else _options(near, length)


def nearest_length(num_frames: int, among: Iterable[int]) -> int:
    """Answers which of some lengths is nearest to one, of two the longer; whoever asks for a film is not answered with an image."""
    return min(among, key=lambda length: (length == 1 < num_frames, abs(length - num_frames), -length))


def _options(size: tuple[int, int], num_frames: int | None = None) -> str:
    return f"`--height {size[0]} --width {size[1]}{'' if num_frames is None else f' --num-frames {num_frames}'}`"


def _said(lengths: list[int]) -> str:
    return "images" if lengths == [1] else f"clips of {listed(map(str, lengths))} frames"


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
