"""What can be asked of a model: a clip from text and pictures, more of a video before or behind it, two joined, one closed, one redrawn.

A verb answers a `Film`, whose frames are made as they are taken. Its errors come before any sampling. A video that is longer than what
the model makes at a time is gone on with window after window, each keeping the end of the one before: its latents as they are, but for
the first, which in a window stands for one frame and is encoded anew from that frame. Windows before a video are encoded anew from the
frames that they meet, since groups of frames end elsewhere there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.generate.arrangement import Arrangement, Piece, arrange, kept_latents, pasted, shares
from components.generate.conditioning import in_whole_tokens
from components.generate.sampling import Sampling
from components.generate.windows import Window, room_between, window_ahead, window_behind, window_between

EASING_STEPS = 9  # shares that are tried of a dissolve


class ShortVideoError(ValueError):
    """A video that has fewer frames than the model keeps of it."""


@dataclass(frozen=True)
class Film:
    """Frames under way.

    Attributes:
        num_frames: how many there will be.
        given: which of them came from a person, bool (num_frames,).
        chunks: uint8 (B, n, H, W, 3) each, in order.
    """

    num_frames: int
    given: np.ndarray
    chunks: Iterator[np.ndarray]

    def whole(self) -> np.ndarray:
        """Makes all frames, uint8 (B, num_frames, H, W, 3)."""
        return np.concatenate(list(self.chunks), axis=1)


def clip(sampling: Sampling, size: tuple[int, int], num_frames: int, pieces: Sequence[Piece] = (), paste: bool = True) -> Film:
    """Makes a clip from text, and from pictures or pieces of film that stand in it.

    Args:
        pieces: uint8 (B, n, H, W, 3) each, whole groups of frames.
        paste: whether given frames are shown as they came, faded into what the VAE makes of them; else as the VAE makes them.

    Raises:
        ValueError: the model's tokens cannot keep all of a piece.
    """
    arrangement = arrange(num_frames, pieces) if pieces else None
    given = arrangement.given if arrangement else np.zeros(num_frames, bool)
    kept = kept_latents(given, sampling.vae.frames)
    places = np.arange(num_frames)
    for at, frames in pieces:
        _check_kept(sampling, kept, kept_latents((at <= places) & (places < at + frames.shape[1]), sampling.vae.frames))
    sampling.passes += 1

    def chunks() -> Iterator[np.ndarray]:
        at = 0
        for frames in _sampled(sampling, size, num_frames, arrangement):
            part = slice(at, at + frames.shape[1])
            yield _shown(arrangement, frames, part) if arrangement and paste else frames
            at = part.stop

    return Film(num_frames, given, chunks())


def extended(sampling: Sampling, video: np.ndarray, length: int, added: int | None = None, paste: bool = True) -> Film:
    """Goes on from a video's end.

    Args:
        video: uint8 (B, T, H, W, 3).
        length: frames of a window, which the model makes at a time.
        added: frames to add; else as many as one window makes.

    Raises:
        ShortVideoError: the video is shorter than what has to be kept of it.
    """
    window = _with_room(window_behind(length, sampling.vae.frames, sampling.generator.token))
    _check_count(video.shape[1], window.frames_before, "go on from it")
    _check_window(sampling, window)
    added = window.frames_new if added is None else added
    sampling.passes += -(-added // window.frames_new)
    count, context = video.shape[1], window.frames_before

    def chunks() -> Iterator[np.ndarray]:
        yield video[:, : count - context]
        arrangement = arrange(window.frames, [(0, video[:, count - context :])])
        clean, left = sampling.encoded(arrangement.frames), added
        while left > 0:
            latents = sampling.latents(tuple(clean.shape[1:]), clean, _mask(window))
            frames = np.concatenate(list(sampling.decoded(latents)), axis=1)
            if left == added:
                seen = slice(0, context)
                yield _shown(arrangement, frames[:, seen], seen) if paste else frames[:, seen]
            yield frames[:, context : context + left]
            left -= window.frames_new
            clean = torch.cat([_carried(sampling, window, frames, latents), clean[:, :, window.before :]], dim=2)

    return Film(count + added, np.arange(count + added) < count, chunks())


def led_to(sampling: Sampling, video: np.ndarray, length: int, added: int | None = None, paste: bool = True) -> Film:
    """Makes what comes before a video; arguments and errors as those of `extended`."""
    window = _with_room(window_ahead(length, sampling.vae.frames, sampling.generator.token))
    _check_count(video.shape[1], window.frames_after, "lead to it")
    _check_window(sampling, window)
    added = window.frames_new if added is None else added
    sampling.passes += -(-added // window.frames_new)
    count, kept = video.shape[1], window.frames_after

    def chunks() -> Iterator[np.ndarray]:
        pieces: list[np.ndarray] = []
        current, left = video[:, :kept], added
        while left > 0:
            arrangement = arrange(window.frames, [(window.frames_new, current)])
            frames = np.concatenate(list(_sampled(sampling, video.shape[2:4], window.frames, arrangement)), axis=1)
            if not pieces:
                seen = slice(window.frames_new, None)
                pieces.append(_shown(arrangement, frames[:, seen], seen) if paste else frames[:, seen])
            pieces.insert(0, frames[:, max(0, window.frames_new - left) : window.frames_new])
            left -= window.frames_new
            current = np.concatenate([frames[:, : window.frames_new], current], axis=1)[:, :kept]
        yield from pieces
        yield video[:, kept:]

    return Film(added + count, np.arange(added + count) >= added, chunks())


def joined(sampling: Sampling, before: np.ndarray, after: np.ndarray, length: int, added: int | None = None, paste: bool = True) -> Film:
    """Leads from a video's end to another's beginning.

    Args:
        before, after: uint8 (B, T, H, W, 3) of one size.
        length: frames of the clip that the model makes: what is kept of both, and what is new.
        added: frames between them, a multiple of what a latent holds; else about a third of the clip.

    Raises:
        ValueError: the clip has no room for that, or a video is shorter than what has to be kept of it.
    """
    window = _between(sampling, length, added)
    _check_count(before.shape[1], window.frames_before, "go on from it", "first video")
    _check_count(after.shape[1], window.frames_after, "lead to it", "second video")
    _check_window(sampling, window)
    sampling.passes += 1
    head, tail = before.shape[1] - window.frames_before, window.frames_after

    def chunks() -> Iterator[np.ndarray]:
        yield before[:, :head]
        yield _bridge(sampling, window, before[:, head:], after[:, :tail], paste)
        yield after[:, tail:]

    given = np.repeat([True, False, True], [before.shape[1], window.frames_new, after.shape[1]])
    return Film(len(given), given, chunks())


def looped(sampling: Sampling, video: Film, length: int, added: int | None = None, paste: bool = True, ease: bool = True) -> Film:
    """Leads from a video's end back to its beginning, so that it can be played over and over.

    What a clip of the model holds may be too short to lead back at an even pace: the new frames at both ends are eased into the video.

    Args:
        video: a film, given or generated itself.
        length, added: as those of `joined`, and so are the errors.
        ease: whether they are.
    """
    window = _between(sampling, length, added)
    _check_count(video.num_frames, max(window.frames_before, window.frames_after), "lead from its end to its beginning")
    _check_window(sampling, window)
    sampling.passes += 1

    def chunks() -> Iterator[np.ndarray]:
        whole = video.whole()
        head, tail = whole.shape[1] - window.frames_before, window.frames_after
        bridge = _bridge(sampling, window, whole[:, head:], whole[:, :tail], paste)
        whole[:, head:] = bridge[:, : window.frames_before]
        whole[:, :tail] = bridge[:, bridge.shape[1] - tail :]
        new = bridge[:, window.frames_before : window.frames_before + window.frames_new].copy()
        if ease and new.shape[1] > 1 and whole.shape[1] > 1:
            new[:, 0] = _eased(new[:, 1], new[:, 0], whole[:, -1], whole[:, -2])
            new[:, -1] = _eased(new[:, -2], new[:, -1], whole[:, 0], whole[:, 1])
        yield whole
        yield new

    given = np.concatenate([video.given, np.zeros(window.frames_new, bool)])
    return Film(len(given), given, chunks())


def edited(sampling: Sampling, video: np.ndarray, length: int, strength: float) -> Film:
    """Draws a video anew: it is taken so far towards noise, and from there walked to what the prompt says.

    Args:
        video: uint8 (B, T, H, W, 3).
        length: frames of a window; a longer video is drawn window after window, its end held still to fill the last.
        strength: t, above 0, which leaves it as it is, to 1, which leaves nothing of it.

    Raises:
        ValueError: the strength is none, or the video is shorter than a window.

    Source: Meng et al., SDEdit (arXiv 2108.01073).
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"`--strength` is above 0 and at most 1, not {strength}; hint: 0.7 keeps much, 0.9 little")
    count = video.shape[1]
    _check_count(count, length, "draw it anew")
    window = window_behind(length, sampling.vae.frames, sampling.generator.token)
    later = -(-(count - length) // _with_room(window).frames_new) if count > length else 0
    if later:
        _check_window(sampling, window)
    sampling.passes += 1 + later

    def chunks() -> Iterator[np.ndarray]:
        held = np.repeat(video[:, -1:], length + later * window.frames_new - count, axis=1)
        source = np.concatenate([video, held], axis=1)
        carried, left = None, count
        for start in (number * window.frames_new for number in range(1 + later)):
            clean, kept = sampling.encoded(source[:, start : start + length]), None
            if carried is not None:
                clean, kept = torch.cat([carried, clean[:, :, window.before :]], dim=2), _mask(window)
            latents = sampling.latents(tuple(clean.shape[1:]), clean, kept, strength)
            frames = np.concatenate(list(sampling.decoded(latents)), axis=1)
            new = frames[:, window.frames_before if start else 0 :][:, :left]
            yield new
            left -= new.shape[1]
            if left:
                carried = _carried(sampling, window, frames, latents)

    return Film(count, np.zeros(count, bool), chunks())


def of_video(video: np.ndarray) -> Film:
    """Answers a given video, uint8 (B, T, H, W, 3), as a film."""
    return Film(video.shape[1], np.ones(video.shape[1], bool), iter([video]))


def _sampled(sampling: Sampling, size: tuple[int, int], num_frames: int, arrangement: Arrangement | None) -> Iterator[np.ndarray]:
    """Samples a clip around what is given and decodes it."""
    if arrangement is None:
        yield from sampling.decoded(sampling.latents(sampling.vae.latents_shape(num_frames, *size)))
        return
    clean, kept = sampling.encoded(arrangement.frames), kept_latents(arrangement.given, sampling.vae.frames)
    yield from sampling.decoded(sampling.latents(tuple(clean.shape[1:]), clean, kept))


def _eased(beyond: np.ndarray, frame: np.ndarray, kept: np.ndarray, further: np.ndarray) -> np.ndarray:
    """Dissolves a generated frame (B, H, W, 3) into the kept one beside it, no more than until the step between them is not the largest.

    Args:
        beyond: the generated frame on its other side; further: the kept frame behind the kept one.
    """
    eased = kept.copy()
    for share in np.linspace(1.0, 0.0, EASING_STEPS):
        mixed = np.rint((1.0 - share) * frame + share * kept).astype(np.uint8)
        around = np.maximum(_distance(beyond, mixed), _distance(kept, further))
        enough = _distance(mixed, kept) <= around
        eased[enough] = mixed[enough]
    return eased


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Answers the root mean square difference of frames (B, H, W, 3), (B,)."""
    apart: np.ndarray = np.sqrt(np.square(one.astype(np.float64) - other).mean(axis=(1, 2, 3)))
    return apart


def _bridge(sampling: Sampling, window: Window, before: np.ndarray, after: np.ndarray, paste: bool) -> np.ndarray:
    """Answers the frames of a window that leads from one run of frames to another, those runs included."""
    arrangement = arrange(window.frames, [(0, before), (window.frames - window.frames_after, after)])
    frames = np.concatenate(list(_sampled(sampling, before.shape[2:4], window.frames, arrangement)), axis=1)
    return _shown(arrangement, frames, slice(0, None)) if paste else frames


def _shown(arrangement: Arrangement, frames: np.ndarray, part: slice) -> np.ndarray:
    return pasted(arrangement.frames[:, part], frames, shares(arrangement.given)[part])


def _carried(sampling: Sampling, window: Window, frames: np.ndarray, latents: Tensor) -> Tensor:
    """Answers what the next window keeps of the end of this one, (B, C, before, h, w)."""
    anchor = sampling.encoded(frames[:, -window.frames_before][:, None])
    return torch.cat([anchor, latents[:, :, window.latents - window.before + 1 :]], dim=2)


def _mask(window: Window) -> Tensor:
    return torch.arange(window.latents) < window.before


def _between(sampling: Sampling, length: int, added: int | None) -> Window:
    group, token = sampling.vae.frames, sampling.generator.token
    most, step = room_between(length, group, token) * group, token * group
    if most < 1:
        raise ValueError(
            f"the model's clips of {length} frames have no room between two videos; hint: one trained on at least {1 + 2 * step} frames"
        )
    if added is not None and (added % step or not step <= added <= most):
        near = min(most, max(1, round(added / step)) * step)
        raise ValueError(
            f"between two videos there are a multiple of {step} frames, at most {most}, not {added}; hint: `--num-frames {near}`"
        )
    return window_between(length, group, None if added is None else added // group, token)


def _with_room(window: Window) -> Window:
    if window.new < 1:
        raise ValueError("the model makes single pictures at this size, no films; hint: one that was trained on clips")
    return window


def _check_window(sampling: Sampling, window: Window) -> None:
    """Looks whether the model's tokens can keep all that a window is to keep."""
    place = torch.arange(window.latents)
    kept = (place < window.before) | (place >= window.latents - window.after)
    _check_kept(sampling, kept, kept)


def _check_kept(sampling: Sampling, kept: Tensor, given: Tensor) -> None:
    """Looks whether latents that are given, bool (T,), stay beside all that are kept: each in a token of such ones alone."""
    token = sampling.generator.token
    if bool((given & ~in_whole_tokens(kept, token)).any()):
        raise ValueError(
            f"this model's tokens hold {token} latent frames, {token * sampling.vae.frames} frames of film, and what is given does not "
            "fill them, so it cannot be kept; hint: a model whose `dit.size.patch_size` begins with 1"
        )


def _check_count(count: int, needed: int, purpose: str, name: str = "video") -> None:
    if count < needed:
        raise ShortVideoError(
            f"the {name} has {count} frame{'s' if count > 1 else ''} at the model's rate, and to {purpose} the model needs {needed}; "
            "hint: a longer video"
        )
