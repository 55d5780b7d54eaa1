"""Draws scenes of the synthetic world as RGB frames, anti-aliased, the same bytes for the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from components.world.vocabulary import (
    DIRECTIONS,
    PALETTE,
    Preset,
    Scene,
    Thing,
    Triple,
    all_triples,
    get_preset,
    held_out,
)

Pair = tuple[float, float]

BAR_HALF_WIDTH = 0.055
BAR_COLOUR = np.array([16.0, 16.0, 20.0], np.float32)
BUSH_DARKNESS = 0.55
MARGIN = 0.5 / 64
PIVOT = {"triangle": 0.24}  # how far below the middle of its box a shape's centre of mass lies, in radii; it spins around that


def render_clips(
    preset: str | Preset,
    count: int,
    *,
    num_frames: int = 9,
    height: int = 64,
    width: int = 64,
    fps: Fraction | int = 8,
    seed: int = 0,
    allow: str | None = None,
) -> tuple[np.ndarray, list[Scene]]:
    """Draws clips without the detour over files.

    Args:
        allow: "seen" draws no held-out triple, "unseen" draws only those, None draws all.

    Returns:
        frames uint8 (N, T, H, W, 3), and the truth of each clip.
    """
    preset, rng = get_preset(preset), np.random.default_rng(seed)
    triples = allowed_triples(preset, allow)
    aspect = (height / min(height, width), width / min(height, width))
    scenes = [draw_scene(rng, preset, triples=triples, seconds=(num_frames - 1) / float(fps), aspect=aspect) for _ in range(count)]
    frames = np.empty((count, num_frames, height, width, 3), np.uint8)
    for i, scene in enumerate(scenes):
        frames[i] = render_scene(scene, num_frames, height, width, fps)
    return frames, scenes


def allowed_triples(preset: str | Preset, allow: str | None) -> tuple[Triple, ...]:
    """Lists the triples that may be drawn: "seen", "unseen", or all of them for None."""
    if allow not in ("seen", "unseen", None):
        raise ValueError(f"`allow` is `{allow}`; it is `seen`, `unseen` or None")
    unseen = held_out(preset)
    return tuple(t for t in all_triples(preset) if allow is None or (t in unseen) == (allow == "unseen"))


def draw_scene(
    rng: np.random.Generator,
    preset: str | Preset,
    triple: Triple | None = None,
    *,
    triples: tuple[Triple, ...] | None = None,
    seconds: float = 1.0,
    aspect: Pair = (1.0, 1.0),
) -> Scene:
    """Draws the truth of one scene.

    Args:
        triple: the (colour, shape, motion) of the main object; drawn from `triples` (all of the preset) when not given.
        seconds: from the first frame to the last; the object stays whole inside the frame that long.
        aspect: (height, width) of the frame in short sides.
    """
    preset = get_preset(preset)
    triples = triples or all_triples(preset)
    triple = triple or triples[rng.integers(len(triples))]
    camera = preset.cameras[rng.integers(len(preset.cameras))]
    rate = rng.uniform(*(preset.zoom_rate if camera.startswith("zoom") else preset.pan_rate))
    things = [_draw_thing(rng, preset, triple, camera_velocity(camera, rate), seconds, aspect)]
    if preset.max_things > 1 and rng.random() < 0.4:
        things.append(_draw_second(rng, preset, things[0], triples, camera_velocity(camera, rate), seconds, aspect))
    backgrounds = [name for name in preset.backgrounds if not (name == "striped" and camera.startswith("tilt"))]  # unseeable
    red, green, blue = rng.uniform(*preset.base_grey) + np.array(preset.slate) + preset.tint * rng.uniform(-1, 1, 3)
    return Scene(
        things=tuple(things),
        background=backgrounds[rng.integers(len(backgrounds))],
        camera=camera,
        camera_rate=0.0 if camera == "still" else float(rate),
        base=(float(red), float(green), float(blue)),
        contrast=float(rng.uniform(*preset.contrast)),
        wavelength=float(rng.uniform(*preset.wavelength)),
        phase_x=float(rng.uniform(0, 1)),
        phase_y=float(rng.uniform(0, 1)),
        texture_seed=int(rng.integers(2**31)),
        occluder=bool(rng.random() < preset.occluder_share and things[0].motion in DIRECTIONS),
        parallax=bool(rng.random() < preset.parallax_share and camera.startswith("pan")),
    )


def camera_velocity(camera: str, rate: float) -> Pair:
    """The camera's own velocity in the world, in short sides a second: still things move the other way on screen."""
    kind, _, way = camera.partition("-")
    dx, dy = DIRECTIONS[way] if kind in ("pan", "tilt") else (0, 0)
    return dx * rate, dy * rate


def _draw_thing(rng: np.random.Generator, preset: Preset, triple: Triple, camera: Pair, seconds: float, aspect: Pair) -> Thing:
    """Draws one object whose path on screen crosses the middle of the frame half-way, and stays inside where it can."""
    colour, shape, motion = triple
    dx, dy = DIRECTIONS.get(motion, (0, 0))
    norm = math.hypot(dx, dy) or 1.0
    slowest, fastest = preset.speed if (dx or dy) else (0.0, 0.0)
    room = [0.5 * side - MARGIN for side in (aspect[1], aspect[0])]

    def reach(speed: float) -> list[float]:  # half the path on screen, by axis
        return [abs(v * speed / norm - c) * seconds / 2 for v, c in zip((dx, dy), camera, strict=True)]

    biggest = min(space - far for space, far in zip(room, reach(slowest), strict=True))
    radius = min(rng.uniform(*preset.radius), max(biggest, 0.75 * preset.radius[0]))
    while fastest > slowest and any(far + radius > space for space, far in zip(room, reach(fastest), strict=True)):
        fastest -= 0.01
    speed = rng.uniform(slowest, max(slowest, fastest))
    slack = [min(preset.jitter, max(0.0, space - far - radius)) for space, far in zip(room, reach(speed), strict=True)]
    thing = Thing(
        colour, shape, motion, float(radius),
        x=float(rng.uniform(-slack[0], slack[0])), y=float(rng.uniform(-slack[1], slack[1])),
        vx=dx * speed / norm, vy=dy * speed / norm,
    )  # fmt: skip
    if preset.says_size:
        thing = replace(thing, size="large" if radius > sum(preset.radius) / 2 else "small")
    match motion:
        case "bounce":
            return replace(thing, hop_height=float(rng.uniform(0.16, 0.22)), hop_seconds=float(rng.uniform(1.0, 1.3)))
        case "grow":
            return replace(thing, growth=0.7 / max(seconds, 1.0))
        case "spin":
            return replace(thing, spin=float(rng.choice([-1, 1]) * rng.uniform(1.8, 2.6)), angle=float(rng.uniform(0, 6)))
    return thing


def _draw_second(
    rng: np.random.Generator, preset: Preset, first: Thing, triples: tuple[Triple, ...], camera: Pair, seconds: float, aspect: Pair
) -> Thing:
    """Draws a smaller companion, of another colour and shape, off to one side."""
    others = [t for t in triples if t[0] != first.colour and t[1] != first.shape] or list(triples)
    thing = _draw_thing(rng, preset, others[rng.integers(len(others))], camera, seconds, aspect)
    angle, radius = rng.uniform(0, 2 * math.pi), min(thing.radius, 0.7 * first.radius)
    x, y = 0.32 * math.cos(angle) * aspect[1], 0.32 * math.sin(angle) * aspect[0]
    return replace(thing, radius=radius, x=x, y=y, size="small" if preset.says_size else None)


def render_scene(
    scene: Scene, num_frames: int, height: int, width: int, fps: Fraction | int = 8, *, middle: float | None = None
) -> np.ndarray:
    """Draws a scene.

    Args:
        middle: the frame at which the scene's places are true, by default the middle one.

    Returns:
        frames uint8 (T, H, W, 3).
    """
    middle = (num_frames - 1) / 2 if middle is None else middle
    times = ((np.arange(num_frames) - middle) / float(fps)).astype(np.float32)
    unit = min(height, width)
    cx, cy = camera_velocity(scene.camera, scene.camera_rate)
    way = {"zoom-in": 1.0, "zoom-out": -1.0}.get(scene.camera, 0.0)
    zoom = np.exp(way * scene.camera_rate * times)  # (T,)
    xs = ((np.arange(width) + 0.5 - width / 2) / unit).astype(np.float32) / zoom[:, None]  # (T, W)
    ys = ((np.arange(height) + 0.5 - height / 2) / unit).astype(np.float32) / zoom[:, None]  # (T, H)
    depth = 0.5 if scene.parallax else 1.0  # a far background slides slower than what stands before it
    level = scene.contrast * pattern(scene, xs + depth * cx * times[:, None], ys + depth * cy * times[:, None])
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for channel, base in enumerate(scene.base):
        frames[..., channel] = level + np.float32(base + 0.5)
    if scene.parallax:
        frames[:] = frames * (1 - BUSH_DARKNESS * _bushes(scene, xs + cx * times[:, None], ys)[..., None]) + 0.5
    for thing in reversed(scene.things):
        _draw_on(frames, thing, times, (cx, cy), zoom, unit)
    if scene.occluder:
        _draw_bar(frames, scene, xs + cx * times[:, None], ys + cy * times[:, None], zoom * unit)
    return frames


def pattern(scene: Scene, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Answers the background's relief in [-1, 1] at world places xs (T, W) and ys (T, H), as (T, H, W)."""
    wave_x = np.sin(2 * math.pi * (xs / scene.wavelength + scene.phase_x)).astype(np.float32)[:, None, :]
    wave_y = np.sin(2 * math.pi * (ys / scene.wavelength + scene.phase_y)).astype(np.float32)[:, :, None]
    match scene.background:
        case "striped":
            return np.broadcast_to(wave_x, (len(xs), ys.shape[1], xs.shape[1]))
        case "dotted":
            return wave_y * wave_x
        case "checkered":
            return np.tanh(5 * wave_y * wave_x)
        case "cloudy":
            return _noise(scene, xs, ys, cell=0.22)
        case "speckled":
            return _noise(scene, xs, ys, cell=0.055)
    raise AssertionError(f"no background {scene.background}")


def _noise(scene: Scene, xs: np.ndarray, ys: np.ndarray, cell: float, grid: int = 48) -> np.ndarray:
    """Smooth value noise: a periodic grid of random values, interpolated along each axis by itself."""
    values = np.random.default_rng(scene.texture_seed).uniform(-1, 1, (grid, grid)).astype(np.float32)
    return np.clip(1.3 * np.matmul(_weights(ys / cell, grid), values) @ _weights(xs / cell, grid).transpose(0, 2, 1), -1, 1)


def _weights(places: np.ndarray, grid: int) -> np.ndarray:
    low = np.floor(places).astype(int)
    part = places - low
    part = part * part * (3 - 2 * part)
    weights = np.zeros((*places.shape, grid), np.float32)
    np.put_along_axis(weights, (low % grid)[..., None], (1 - part)[..., None], -1)
    np.put_along_axis(weights, ((low + 1) % grid)[..., None], part[..., None], -1)
    return weights


def _bushes(scene: Scene, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Covers a band at the foot of the picture whose round tops slide with the near ground."""
    tops = 0.34 - 0.06 * np.abs(np.sin(2 * math.pi * (xs / 0.5 + scene.phase_y), dtype=np.float32))  # (T, W)
    return np.clip((ys[:, :, None] - tops[:, None, :]) * 64 + 0.5, 0, 1)


def _draw_bar(frames: np.ndarray, scene: Scene, xs: np.ndarray, ys: np.ndarray, pixels: np.ndarray) -> None:
    """Draws the bar that the main object passes behind: across its path, standing in the world."""
    upright = abs(scene.things[0].vx) >= abs(scene.things[0].vy)
    cover = np.clip((BAR_HALF_WIDTH - np.abs(xs if upright else ys)) * pixels[:, None] + 0.5, 0, 1)
    cover = cover[:, None, :, None] if upright else cover[:, :, None, None]
    frames[:] = frames + cover * (BAR_COLOUR - frames) + 0.5


def _draw_on(frames: np.ndarray, thing: Thing, times: np.ndarray, camera: Pair, zoom: np.ndarray, unit: int) -> None:
    """Draws one object into frames uint8 (T, H, W, 3), touching only the box around it."""
    _, height, width, _ = frames.shape
    hop = np.zeros_like(times)
    if thing.hop_height:
        beat = ((times - times[0]) / thing.hop_seconds) % 1.0
        hop = thing.hop_height * (4 * beat * (1 - beat) - 0.5)  # a ball's parabola, half above and half below
    centre_x = (thing.x + (thing.vx - camera[0]) * times) * zoom * unit + width / 2 - 0.5  # (T,) in pixels
    centre_y = (thing.y + (thing.vy - camera[1]) * times - hop) * zoom * unit + height / 2 - 0.5
    radius = thing.radius * np.exp(thing.growth * times) * zoom * unit
    angle = thing.angle + thing.spin * times
    colour = np.array(PALETTE[thing.colour], np.float32)
    reach = radius * (1.45 if thing.spin else 1.0) + 1.5
    x0, x1 = _span(centre_x, reach, width)
    y0, y1 = _span(centre_y, reach, height)
    for t in range(len(times)):
        if x1[t] <= x0[t] or y1[t] <= y0[t]:
            continue
        dx = np.arange(x0[t], x1[t], dtype=np.float32)[None, :] - centre_x[t]
        dy = np.arange(y0[t], y1[t], dtype=np.float32)[:, None] - centre_y[t]
        if thing.spin:
            cos, sin = np.cos(angle[t]), np.sin(angle[t])
            dx, dy = cos * dx + sin * dy, cos * dy - sin * dx + PIVOT.get(thing.shape, 0.0) * radius[t]
        cover = np.clip(0.5 - radius[t] * distance(thing.shape, dx / radius[t], dy / radius[t]), 0, 1)[..., None]
        box = frames[t, y0[t] : y1[t], x0[t] : x1[t]]
        box[:] = box + cover * (colour - box) + 0.5


def _span(centre: np.ndarray, reach: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    low = np.clip(np.floor(centre - reach), 0, side).astype(int)
    return low, np.clip(np.ceil(centre + reach) + 1, 0, side).astype(int)


def distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Answers the signed distance (inside < 0) to the edge of a shape that fills the square from -1 to 1."""
    match shape:
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) - 0.86
        case "triangle":  # point up; edges from (0, -1) to (+-1, 0.86)
            return np.maximum((1.86 * np.abs(x) - (y + 1)) / math.hypot(1.86, 1), y - 0.86)
        case "ring":
            return np.abs(np.hypot(x, y) - 0.74) - 0.26
        case "cross":
            across = np.maximum(np.abs(x) - 1, np.abs(y) - 0.3)
            return np.minimum(across, np.maximum(np.abs(x) - 0.3, np.abs(y) - 1))
        case "circle":
            return np.hypot(x, y) - 1
        case "diamond":
            return (np.abs(x) + np.abs(y) - 1) / math.sqrt(2)
        case "star":
            return _star(x, y)
    raise AssertionError(f"no shape {shape}")


def _star(x: np.ndarray, y: np.ndarray, inner: float = 0.42) -> np.ndarray:
    """Five points: folds the plane into half a point and measures to its one edge."""
    sector = math.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    u, v = radius * np.cos(angle), radius * np.sin(angle)  # the tip is (1, 0), the notch inner * (cos, sin) of a sector
    edge_u, edge_v = inner * math.cos(sector) - 1, inner * math.sin(sector)
    return (edge_v * (u - 1) - edge_u * v) / math.hypot(edge_u, edge_v)
