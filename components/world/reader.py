"""Reads what a clip of the synthetic world shows, by classical vision alone: it has no weights and never sees a prompt.

One label for each field, or None where the clip does not say; None counts as wrong. Its figures are in tests/world.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from components.world.render import distance
from components.world.sight import Blob, Path, Slide, find_blob, find_slide, grow, slope, trace
from components.world.vocabulary import DIRECTIONS, FIELDS, Preset, all_triples, get_preset

MOTION_FLOOR = 0.7  # pixels a frame at a short side of 64
SHAPE_FLOOR = 0.62  # soft IoU with the best template
SHAPE_LEAD = 0.025  # and how far it must be ahead of the second
BACKGROUND_FLOOR = 0.45  # share of the relief that the named pattern explains
GRID = 24


def read(frames: np.ndarray, preset: str | Preset = "demo") -> dict[str, str | None]:
    """Names colour, shape, motion, background and camera of a clip.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        preset: whose words to answer in.
    """
    preset = get_preset(preset)
    answer: dict[str, str | None] = dict.fromkeys(FIELDS)
    unit = min(frames.shape[1:3]) / 64
    hides = preset.occluder_share > 0
    blob = find_blob(frames, preset.colours, bridge=max(1, round((4 if hides else 1) * unit)))
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    ground = np.ones(luma.shape, bool)
    if blob is not None:
        ground = ~grow(blob.mask > 0.15, max(1, round(2 * unit)))
    if preset.max_things > 1:
        ground &= np.abs(luma - np.median(luma[ground])) < 45  # leaves out a second object and most of a bar
    slide = find_slide(luma, ground, frozenset(camera.split("-")[0] for camera in preset.cameras))
    answer["camera"] = _camera(slide, preset, unit)
    foot = round(0.75 * luma.shape[1]) if preset.parallax_share else luma.shape[1]  # below it may stand bushes
    answer["background"] = _background(luma[:, :foot], ground[:, :foot], preset, unit)
    if blob is None:
        return answer
    path = trace(blob.mask)
    if len(path.frames) < max(1, len(frames) // 2):
        return answer
    answer["colour"] = blob.colour
    answer["motion"] = _motion(blob, path, slide or Slide(), preset, unit)
    if answer["motion"] == "spin":
        turning = frozenset(shape for _, shape, motion in all_triples(preset) if motion == "spin")
        answer["shape"] = _shape(blob.mask[path.frames], tuple(sorted(turning)), angles=8)
    else:
        answer["shape"] = _shape(blob.mask[path.frames], preset.shapes, angles=1)
    return answer


def score(frames: np.ndarray, truth_fields: dict[str, str], preset: str | Preset = "demo") -> dict[str, bool]:
    """Tells for each field of a truth whether the clip shows it."""
    seen = read(frames, preset)
    return {field: seen[field] == truth for field, truth in truth_fields.items()}


def _camera(slide: Slide | None, preset: Preset, unit: float) -> str | None:
    if slide is None:
        return None
    floor = (0.4 if preset.parallax_share == 0 else 0.3) * unit
    label = "still"
    if abs(slide.pan) >= floor:
        label = "pan-right" if slide.pan > 0 else "pan-left"
    elif abs(slide.tilt) >= floor:
        label = "tilt-down" if slide.tilt > 0 else "tilt-up"
    elif slide.zoom:
        label = "zoom-in" if slide.zoom > 0 else "zoom-out"
    return label if label in preset.cameras else None


def _background(luma: np.ndarray, ground: np.ndarray, preset: Preset, unit: float) -> str | None:
    """Fits each regular pattern to the relief, at the wavelengths the preset has; what none fits is cloudy or speckled."""
    picks = np.linspace(0, len(luma) - 1, min(3, len(luma))).astype(int)
    answers = [_pattern_of(luma[t], ground[t], preset, 64 * unit) for t in picks]
    return max(set(answers), key=lambda name: (answers.count(name), name is not None))


def _pattern_of(image: np.ndarray, ground: np.ndarray, preset: Preset, short_side: float) -> str | None:
    rows, cols = np.nonzero(ground)
    values = image[ground] - image[ground].mean() if len(rows) else image[ground]
    if values.size < 0.1 * image.size or values.std() < 2.0:
        return None
    shortest, longest = preset.wavelength
    fits = {"striped": 0.0, "dotted": 0.0}
    for wavelength in np.linspace(0.93 * shortest, 1.07 * longest, 3 if shortest == longest else 14):
        turn = 2 * math.pi / (wavelength * short_side)
        across, along = (np.stack([np.cos(turn * at), np.sin(turn * at)]) for at in (cols, rows))
        dots = (across[:, None] * along[None]).reshape(4, -1)
        fits["striped"] = max(fits["striped"], _explained(across, values))
        fits["dotted"] = max(fits["dotted"], _explained(dots, values))
    best = max(fits, key=fits.__getitem__)
    if fits[best] >= BACKGROUND_FLOOR:
        flat = np.mean((values / values.std()) ** 4) < 1.75  # a chequer has two levels, soft dots have all
        best = "checkered" if best == "dotted" and flat and "checkered" in preset.backgrounds else best
        return best if best in preset.backgrounds else None
    if "cloudy" not in preset.backgrounds:
        return None
    both = ground[:, 3:] & ground[:, :-3]
    alike = np.mean(((image - image[ground].mean())[:, 3:] * (image - image[ground].mean())[:, :-3])[both]) / values.var()
    return "cloudy" if alike > 0.5 else "speckled" if alike > -0.2 else None


def _explained(basis: np.ndarray, values: np.ndarray) -> float:
    """The share of the variance of values (N,) that a basis (K, N) fits."""
    gram = basis @ basis.T + 1e-3 * np.eye(len(basis))
    weights = np.linalg.solve(gram, basis @ values)
    return 1 - float(np.square(values - weights @ basis).sum() / np.square(values).sum())


def _shape(masks: np.ndarray, shapes: tuple[str, ...], angles: int) -> str | None:
    """Compares silhouettes, all brought to one size and place, with every shape's own: soft IoU, the mean over frames."""
    names, templates = _templates(shapes, angles)
    areas = masks.sum((1, 2))
    full = areas >= 0.85 * np.quantile(areas, 0.9)  # the others may be half behind a bar
    whole = [mask for mask in masks[full] if not _touches_edge(mask)] or list(masks)
    likeness = np.zeros((len(whole), len(shapes)))
    for row, mask in zip(likeness, whole, strict=True):
        picture = _normalised(mask)
        both = np.minimum(templates, picture).sum((1, 2)) / np.maximum(templates, picture).sum((1, 2))
        for name, value in zip(names, both, strict=True):
            row[name] = max(row[name], value)
    means = likeness.mean(0)
    order = np.argsort(means)
    if means[order[-1]] < SHAPE_FLOOR or means[order[-1]] - means[order[-2]] < SHAPE_LEAD:
        return None
    return shapes[order[-1]]


def _touches_edge(mask: np.ndarray) -> bool:
    return max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) > 0.5


@cache
def _templates(shapes: tuple[str, ...], angles: int) -> tuple[np.ndarray, np.ndarray]:
    """Silhouettes of all shapes at all angles, each normalised as a mask is; with the number of its shape."""
    side = 96
    at = (np.arange(side) - (side - 1) / 2) / (side / 3)
    x, y = at[None, :], at[:, None]
    names, pictures = [], []
    for number, shape in enumerate(shapes):
        for angle in np.arange(angles) * 2 * math.pi / max(angles, 1) / (1 if shape in ("triangle", "star") else 4):
            cos, sin = math.cos(angle), math.sin(angle)
            sharp = np.clip(0.5 - side / 3 * distance(shape, cos * x + sin * y, cos * y - sin * x), 0, 1)
            names.append(number)
            pictures.append(_normalised(_soften(sharp)))
    return np.array(names), np.stack(pictures)


def _soften(picture: np.ndarray) -> np.ndarray:
    """Blurs a large template a little, as video and a model's decoder do to what they show."""
    kernel = np.array([1, 2, 3, 2, 1]) / 9
    for axis in (0, 1):
        picture = np.apply_along_axis(np.convolve, axis, picture, kernel, mode="same")
    return picture


def _normalised(mask: np.ndarray) -> np.ndarray:
    """Samples a mask on a grid around its centre whose size follows from the mask's spread, (GRID, GRID)."""
    path = trace(mask[None])
    if not len(path.frames):
        return np.zeros((GRID, GRID))
    reach = 1.75 * float(path.radius[0])
    steps = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    rows, cols = float(path.y[0]) + reach * steps, float(path.x[0]) + reach * steps
    return _weights(rows, mask.shape[0]) @ mask @ _weights(cols, mask.shape[1]).T


def _weights(places: np.ndarray, side: int) -> np.ndarray:
    """Linear interpolation at places as a matrix (len(places), side); zero outside."""
    return np.clip(1 - np.abs(places[:, None] - np.arange(side)[None, :]), 0, None)


def _motion(blob: Blob, path: Path, slide: Slide, preset: Preset, unit: float) -> str | None:
    """Names the motion in the world: the path on screen, less what the camera adds to it."""
    if len(path.frames) < 3:
        return None
    height, width = blob.mask.shape[1:]
    vx = slope(path.frames, path.x) + slide.pan - slide.zoom * (float(np.median(path.x)) - width / 2)
    vy = slope(path.frames, path.y) + slide.tilt - slide.zoom * (float(np.median(path.y)) - height / 2)
    speed = math.hypot(vx, vy) / unit
    if "bounce" in preset.motions and _hops(path, unit):
        return "bounce"
    if speed >= MOTION_FLOOR:
        return _direction(vx, vy, preset)
    growth = slope(path.frames, np.log(path.radius)) - slide.zoom
    if "grow" in preset.motions and growth > 0.018:
        return "grow"
    if "spin" in preset.motions and _turning(blob.mask[path.frames]) > 0.12:
        return "spin"
    return "still" if "still" in preset.motions else None


def _direction(vx: float, vy: float, preset: Preset) -> str | None:
    """The named direction nearest to a velocity; None on the border between two."""
    names = [name for name in preset.motions if name in DIRECTIONS]
    ways = np.array([DIRECTIONS[name] for name in names], float)
    likeness = ways @ (vx, vy) / np.linalg.norm(ways, axis=1) / math.hypot(vx, vy)
    order = np.argsort(likeness)
    return names[order[-1]] if likeness[order[-1]] - likeness[order[-2]] > 0.05 else None


def _hops(path: Path, unit: float) -> bool:
    """Tells a bounce by its fall: the height bends much more than a steady path may."""
    if len(path.frames) < 5:
        return False
    bend = path.y[2:] - 2 * path.y[1:-1] + path.y[:-2]
    return float(np.median(bend)) > 0.45 * unit


def _turning(masks: np.ndarray) -> float:
    """How much the silhouette, held in place and at one size, changes in two frames."""
    pictures = np.stack([_normalised(mask) for mask in masks])
    if len(pictures) < 4:
        return 0.0
    change = np.abs(pictures[2:] - pictures[:-2]).sum((1, 2)) / np.maximum(pictures[2:].sum((1, 2)), 1e-6)
    return float(np.median(change))
