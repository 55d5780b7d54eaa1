"""What the reader sees before it names anything: the object's mask, its path, and how the background slides. Numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.world.vocabulary import PALETTE

FAINTEST = 60.0  # how far, in RGB, an object's colour stands from the background's at the least


@dataclass(frozen=True)
class Blob:
    """One object through a clip: its colour label, and its soft mask in [0, 1], (T, H, W)."""

    colour: str | None
    mask: np.ndarray


@dataclass(frozen=True)
class Path:
    """Where the object is in each frame in which it is clearly seen, in pixels."""

    frames: np.ndarray  # (N,) their numbers
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray  # of a disc of the same spread


def find_blob(frames: np.ndarray, colours: tuple[str, ...], bridge: int = 1) -> Blob | None:
    """Finds the largest object that has one of the colours and stands off the background.

    Args:
        frames: uint8 (T, H, W, 3).
        bridge: pixels of gap that still belong to one object on either side.
    """
    pixels = frames.astype(np.float32)
    ground = np.median(pixels[:, ::2, ::2].reshape(-1, 3), axis=0)
    off = pixels - ground  # (T, H, W, 3)
    far = np.sqrt(np.square(off).sum(-1))  # (T, H, W)
    strong = far > max(FAINTEST, 0.35 * float(np.quantile(far, 0.97)))
    ways = np.array([PALETTE[colour] for colour in colours], np.float32) - ground
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    likeness = off @ ways.T / np.maximum(far, 1e-6)[..., None]  # (T, H, W, colours)
    strong &= likeness.max(-1) > 0.7
    nearest = np.where(strong, np.argmax(likeness, axis=-1), -1)  # (T, H, W)
    inside = ~grow(~strong, 1)  # edges are mixed colours, and codecs keep less of colour than of light
    nearest = np.where(inside, nearest, -1) if inside.sum() > 0.01 * inside.size else nearest
    counts = np.bincount(nearest[nearest >= 0], minlength=len(colours))
    best: tuple[float, Blob] | None = None
    for index, count in enumerate(counts):
        mine = nearest == index
        if count < max(0.004 * mine.size, 0.35 * counts.max()):
            continue
        blob = _blob(off, far, mine, ways, colours, bridge)
        size = 0.0 if blob is None else _extent(blob.mask)
        if blob is not None and (best is None or size > best[0]):
            best = (size, blob)
    return best[1] if best else None


def _blob(off: np.ndarray, far: np.ndarray, mine: np.ndarray, ways: np.ndarray, colours: tuple[str, ...], bridge: int) -> Blob | None:
    """Turns the pixels nearest to one colour into a soft mask: how much of the object's own colour each pixel holds."""
    core = mine & (far >= 0.8 * np.quantile(far[mine], 0.7))
    own = np.median(off[core], axis=0)
    strength = float(np.linalg.norm(own))
    if strength < max(FAINTEST, 0.7 * float(np.median(far[core]))):
        return None  # the pixels agree on no colour: noise
    share = off @ (own / strength**2)
    rest = np.linalg.norm(off - share[..., None] * own, axis=-1) / strength
    mask = np.clip(share, 0, 1) * np.clip(2.2 - 3 * rest, 0, 1)
    piece = mask * _main_piece(mask, bridge)
    if piece.sum() < 0.4 * mask.sum():
        return None  # no one object, but many
    likeness = np.sort(ways @ (own / strength))
    clear = likeness[-1] > 0.9 and (len(likeness) == 1 or likeness[-1] - likeness[-2] > 0.02)
    return Blob(colours[int(np.argmax(ways @ own))] if clear else None, piece)


def _main_piece(mask: np.ndarray, bridge: int) -> np.ndarray:
    """Keeps, in each frame, the pieces that hang together with the thickest one, and a pixel of soft edge around them."""
    solid = mask > 0.5
    thick = box_blur(solid.astype(np.float32), max(2, mask.shape[1] // 12)) * solid
    seed = thick >= np.maximum(thick.max((1, 2), keepdims=True), 1e-6)
    allowed = grow(solid, bridge)
    while True:
        wider = grow(seed, 1) & allowed
        if (wider == seed).all():
            return grow(seed & solid, 2)
        seed = wider


def _extent(mask: np.ndarray) -> float:
    """The usual side of the box around a mask, in pixels."""
    solid = mask > 0.5
    sides = np.sqrt(solid.any(1).sum(-1) * solid.any(2).sum(-1))
    return float(np.median(sides))


def grow(mask: np.ndarray, steps: int) -> np.ndarray:
    """Dilates a boolean (T, H, W) by a diamond, step by step."""
    for _ in range(steps):
        wide = mask.copy()
        wide[:, 1:] |= mask[:, :-1]
        wide[:, :-1] |= mask[:, 1:]
        wide[:, :, 1:] |= mask[:, :, :-1]
        wide[:, :, :-1] |= mask[:, :, 1:]
        mask = wide
    return mask


def box_blur(images: np.ndarray, reach: int) -> np.ndarray:
    """Means over squares of side 2 * reach + 1, (T, H, W), zeros outside."""
    side = 2 * reach + 1
    padded = np.pad(images, ((0, 0), (reach + 1, reach), (reach + 1, reach)))
    total = padded.cumsum(1).cumsum(2)
    return (total[:, side:, side:] - total[:, :-side, side:] - total[:, side:, :-side] + total[:, :-side, :-side]) / side**2


def trace(mask: np.ndarray) -> Path:
    """Follows a mask's centre and size through the frames in which enough of it is seen."""
    areas = mask.sum((1, 2))
    seen = np.flatnonzero(areas > max(12.0, 0.4 * float(np.median(areas))))
    weight = mask[seen] / np.maximum(areas[seen], 1e-6)[:, None, None]
    rows, cols = np.arange(mask.shape[1]), np.arange(mask.shape[2])
    x, y = weight.sum(1) @ cols, weight.sum(2) @ rows
    spread = (weight.sum(1) * (cols - x[:, None]) ** 2).sum(1) + (weight.sum(2) * (rows - y[:, None]) ** 2).sum(1)
    return Path(seen, x, y, np.sqrt(2 * spread))


def slope(at: np.ndarray, values: np.ndarray) -> float:
    """The median slope over all pairs at least a third of the span apart (Theil and Sen): one bad frame does not tilt it."""
    i, j = np.triu_indices(len(at), 1)
    wide = (at[j] - at[i]) * 3 >= at[-1] - at[0]
    return float(np.median((values[j] - values[i])[wide] / (at[j] - at[i])[wide]))


@dataclass(frozen=True)
class Slide:
    """The camera between neighbouring frames: pixels panned and tilted, log scale zoomed, and how much of the relief it explains."""

    pan: float = 0.0
    tilt: float = 0.0
    zoom: float = 0.0
    explained: float = 0.0


def find_slide(luma: np.ndarray, ground: np.ndarray, kinds: frozenset[str], lag: int = 3) -> Slide | None:
    """Tries how the background may have moved and keeps what makes frames `lag` apart agree best.

    Args:
        luma: float (T, H, W).
        ground: boolean (T, H, W), true where the background is seen.
        kinds: which of "pan", "tilt", "zoom" the camera may do.

    Returns:
        None where there is no relief, or no motion explains it.
    """
    lag = min(lag, len(luma) - 1)
    values = luma[ground]
    if lag < 1 or values.size < 0.1 * luma.size or values.std() < 2.0:
        return None
    unit = min(luma.shape[1:]) / 64
    first, then = luma[:-lag], luma[lag:]
    first_ground, then_ground = ground[:-lag].astype(np.float32), ground[lag:].astype(np.float32)
    steps = unit * np.arange(-2.0, 2.01, 0.25)
    tries = [Slide(pan=s) for s in steps] if "pan" in kinds else [Slide()]
    tries += [Slide(tilt=s) for s in steps if s] if "tilt" in kinds else []
    tries += [Slide(zoom=s) for s in (-0.03, -0.024, -0.018, -0.012, 0.012, 0.018, 0.024, 0.03)] if "zoom" in kinds else []
    best, least = None, np.inf
    for guess in tries:
        weight = first_ground * _moved(then_ground, guess, lag)
        total = weight.sum()
        error = float((weight * np.square(_moved(then, guess, lag) - first)).sum() / total) if total > 0 else np.inf
        if error < least:
            best, least = guess, error
    explained = 1 - least / (2 * float(values.var()))
    return Slide(best.pan, best.tilt, best.zoom, explained) if best and explained > 0.4 else None


def _moved(images: np.ndarray, slide: Slide, lag: int) -> np.ndarray:
    """Samples later images (P, H, W) where the earlier one's pixels went; zero outside."""
    scale = np.exp(slide.zoom * lag)
    _, height, width = images.shape
    rows = (np.arange(height) - (height - 1) / 2) * scale + (height - 1) / 2 - slide.tilt * lag
    cols = (np.arange(width) - (width - 1) / 2) * scale + (width - 1) / 2 - slide.pan * lag
    return _between(_between(images, rows, 1), cols, 2)


def _between(images: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    side = images.shape[axis]
    if np.array_equal(places, np.arange(side)):
        return images
    low = np.clip(np.floor(places).astype(int), 0, side - 2)
    part = (places - low).astype(np.float32)
    inside = ((places >= 0) & (places <= side - 1)).astype(np.float32)
    shape = [1, 1, 1]
    shape[axis] = len(places)
    part, inside = part.reshape(shape), inside.reshape(shape)
    return ((1 - part) * images.take(low, axis) + part * images.take(low + 1, axis)) * inside
