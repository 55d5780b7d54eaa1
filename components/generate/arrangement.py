"""Which frames of a clip are given, and the latents that keep them.

The VAE is causal: its first latent is of one frame, each later one of a group of frames, and none depends on what follows. So 1 + k
groups of given frames at a clip's start are exactly 1 + k latents, whatever comes after. Given frames further on are kept by the
latents of whole groups. The frames between, which are not known yet, are filled by a fade from what is given before to what is given
behind, or held where there is nothing on one side, and the clip is encoded as a whole, so that these latents too are a clip's later
ones. They are decoded behind what is generated, which changes how they look by as much as the VAE looks back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Piece = tuple[int, np.ndarray]  # the frame that it begins at, and frames uint8 (B, n, H, W, 3)


@dataclass(frozen=True)
class Arrangement:
    """A clip of which some frames are given: frames uint8 (B, T, H, W, 3), filled where `given` (T,) is False."""

    frames: np.ndarray
    given: np.ndarray


def arrange(length: int, pieces: Sequence[Piece]) -> Arrangement:
    """Puts pieces of film, at least one and each within the clip, into a clip of `length` frames and fills what is between them."""
    first = pieces[0][1]
    frames = np.zeros((len(first), length, *first.shape[2:]), np.uint8)
    given = np.zeros(length, bool)
    for start, piece in pieces:
        frames[:, start : start + piece.shape[1]] = piece
        given[start : start + piece.shape[1]] = True
    known = np.flatnonzero(given)
    for at in np.flatnonzero(~given):
        before, after = known[known < at], known[known > at]
        left = before[-1] if len(before) else after[0]
        right = after[0] if len(after) else left
        share = (at - left) / (right - left) if right > left else 0.0
        frames[:, at] = np.rint((1 - share) * frames[:, left] + share * frames[:, right])
    return Arrangement(frames, given)


def kept_latents(given: np.ndarray, group: int) -> Tensor:
    """Answers which latents hold given frames alone, bool (1 + (T - 1) / group,)."""
    return torch.from_numpy(np.concatenate([given[:1], given[1:].reshape(-1, group).all(axis=1)]))


def key_frame(seconds: float, picture: np.ndarray, fps: float, group: int) -> Piece:
    """Answers a picture as the frames that keep it at a time: the first of a clip is by itself, at any other it stands still for a group.

    Args:
        picture: uint8 (B, H, W, 3).
    """
    at = round(seconds * fps)
    if at == 0:
        return 0, picture[:, None]
    return 1 + (at - 1) // group * group, np.repeat(picture[:, None], group, axis=1)


def moment(frame: int, fps: float) -> str:
    """Answers the seconds of a clip's frame as they are typed, never beyond it by rounding."""
    return f"{math.floor(frame / fps * 1000 + 1e-6) / 1000:.3f}".rstrip("0").rstrip(".")


def shares(given: np.ndarray) -> np.ndarray:
    """Answers how much of each frame shows what was given (T,), the rest being what the VAE makes of it.

    A given run fades from the one into the other towards the generated frames beside it, so that no step shows where they meet.
    """
    share = np.zeros(len(given))
    apart = np.flatnonzero(~given)
    for run in np.split(np.arange(len(given)), np.flatnonzero(np.diff(given)) + 1):
        if given[run[0]]:
            distance = np.abs(run[:, None] - apart).min(axis=1) if len(apart) else np.full(len(run), len(run) + 1)
            share[run] = np.minimum(1.0, distance / (len(run) + 1))
    return share


def pasted(given: np.ndarray, decoded: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mixes given and decoded frames, both uint8 (B, T, H, W, 3), by the share (T,) of the former."""
    weight = share[:, None, None, None]
    mixed: np.ndarray = np.rint(weight * given + (1 - weight) * decoded).astype(np.uint8)
    return mixed
