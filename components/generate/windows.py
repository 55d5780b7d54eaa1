"""How a clip of a model is shared between what is kept of a video and what is new, in whole tokens."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """How a model's clip is shared between what is kept and what is new, in latents.

    Attributes:
        before, after: kept at the clip's start, of which the first is one frame, and at its end.
        new: generated.
        group: frames of a latent.
    """

    before: int
    new: int
    after: int
    group: int

    @property
    def latents(self) -> int:
        return self.before + self.new + self.after

    @property
    def frames(self) -> int:
        return 1 + (self.latents - 1) * self.group

    @property
    def frames_before(self) -> int:
        return 1 + (self.before - 1) * self.group if self.before else 0

    @property
    def frames_after(self) -> int:
        return self.after * self.group

    @property
    def frames_new(self) -> int:
        return self.frames - self.frames_before - self.frames_after


def window_behind(length: int, group: int, token: int = 1) -> Window:
    """Shares a clip of `length` frames that goes on from a video: a third is kept, but two latents where they fit, so motion is seen.

    Args:
        token: latents of one token, which are kept together; what is kept is whole tokens wherever the clip has room.
    """
    latents = 1 + (length - 1) // group
    before = max(1, min(max(token, _down(max(2, latents // 3), token)), _down(latents - 1, token)))
    return Window(before, latents - before, 0, group)


def window_ahead(length: int, group: int, token: int = 1) -> Window:
    """Shares a clip of `length` frames that leads to a video: a third is kept, at least one latent; `token` as for `window_behind`."""
    latents = 1 + (length - 1) // group
    new = latents - max(1, latents // 3)
    new = min(-_down(-new, token), _down(latents - 1, token)) or new
    return Window(0, new, latents - new, group)


def window_between(length: int, group: int, new: int | None = None, token: int = 1) -> Window:
    """Shares a clip of `length` frames between two videos, so many latents of it new, else about a third; `token` as for the others."""
    latents = 1 + (length - 1) // group
    new = max(token, _down(latents // 3, token)) if new is None else new
    kept = latents - new
    before = max(_down(kept - max(1, kept // 2), token), min(token, kept - 1))
    return Window(before, new, kept - before, group)


def room_between(length: int, group: int, token: int = 1) -> int:
    """Answers how many latents of a clip may be new between two videos, of each of which it keeps a token; below 1 it has no room."""
    return _down((length - 1) // group - token, token)


def _down(count: int, token: int) -> int:
    return count // token * token
