"""Renders films of the synthetic world: several scenes, cuts and slow transitions, and beside each film its truth as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from components.media.write import replacing, write_video
from components.world.render import allowed_triples, draw_scene, render_scene
from components.world.vocabulary import Preset, Scene, caption, get_preset

FORMAT = "kinora-world"
VERSION = 1
CRF = 14


@dataclass(frozen=True)
class Recipe:
    """All that a film depends on: the same recipe is the same film, byte for byte."""

    preset: str
    seed: int
    index: int = 0
    scenes: int = 8
    height: int = 64
    width: int = 64
    fps: str = "8"
    frames_per_scene: tuple[int, int] = (9, 14)
    gradual_share: float = 1 / 8
    allow: str = "seen"
    version: int = VERSION


def recipe_for(
    preset: str | Preset,
    seed: int,
    *,
    index: int = 0,
    scenes: int = 8,
    height: int = 64,
    width: int = 64,
    fps: Fraction | int = 8,
    frames_per_scene: tuple[int, int] | None = None,
    gradual_share: float | None = None,
    allow: str = "seen",
) -> Recipe:
    """Fills a recipe; what is not given is the preset's.

    Raises:
        ValueError: no such preset, or numbers no film can have.
    """
    preset = get_preset(preset)
    shortest, longest = frames_per_scene or preset.frames_per_scene
    if scenes < 1 or not 1 <= shortest <= longest:
        raise ValueError(f"a film needs at least one scene of at least one frame, not {scenes} of {shortest} to {longest}")
    if height % 2 or width % 2:
        raise ValueError(f"a film has even sides, not {height}x{width}")
    share = preset.gradual_share if gradual_share is None else gradual_share
    return Recipe(preset.name, seed, index, scenes, height, width, str(Fraction(fps)), (shortest, longest), share, allow)


def render_film(path: str | os.PathLike, preset: str | Preset, seed: int, **choices: Any) -> dict[str, Any]:
    """Renders one film and, before it, its sidecar `<stem>.json`; whoever finds a film finds its truth.

    Args:
        choices: as `recipe_for` takes them: index, scenes, height, width, fps, frames_per_scene, gradual_share, allow.

    Returns:
        what the sidecar says: scenes with frames, captions and fields, hard `cuts`, and `gradual` transitions, whose frames
        belong to no scene.
    """
    return _write_film(Path(path), recipe_for(preset, seed, **choices))


def render_films(
    folder: str | os.PathLike,
    preset: str | Preset,
    num_films: int,
    *,
    seed: int = 0,
    unseen_films: int = 0,
    workers: int = 2,
    on_film: Callable[[int, int], None] | None = None,
    **choices: Any,
) -> list[Path]:
    """Renders what is missing of a folder of films: `film_0000.mp4` and on, then `unseen_0000.mp4` with held-out triples alone.

    A film that stands with the sidecar of the same recipe is left as it is, so a killed run goes on where it stopped.

    Args:
        workers: processes; 1 renders in this one.
        on_film: called with (done, total) after each film, those found ready counted.
        choices: as `recipe_for` takes them.

    Returns:
        paths of all films, in order.
    """
    folder = Path(folder)
    recipes = {
        folder / f"{name}_{i:04d}.mp4": recipe_for(preset, seed, index=i, allow=allow, **choices)
        for name, count, allow in (("film", num_films, "seen"), ("unseen", unseen_films, "unseen"))
        for i in range(count)
    }
    missing = [(path, recipe) for path, recipe in recipes.items() if not _stands(path, recipe)]
    done = len(recipes) - len(missing)
    for _ in _in_processes(missing, min(workers, len(missing))):
        done += 1
        if on_film:
            on_film(done, len(recipes))
    if on_film and not missing:
        on_film(done, len(recipes))
    return list(recipes)


def _in_processes(tasks: list[tuple[Path, Recipe]], workers: int) -> Iterator[None]:
    if workers <= 1:
        yield from map(_write_task, tasks)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield from pool.map(_write_task, tasks, chunksize=max(1, min(4, len(tasks) // (2 * workers))))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_task(task: tuple[Path, Recipe]) -> None:
    _write_film(*task)


def _stands(path: Path, recipe: Recipe) -> bool:
    """Tells whether a film is there, whole, by this very recipe: the film is written last."""
    try:
        return path.exists() and json.loads(path.with_suffix(".json").read_text())["recipe"] == _plain(recipe)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _plain(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))


def _write_film(path: Path, recipe: Recipe) -> dict[str, Any]:
    frames, sidecar = draw_film(recipe)
    path.unlink(missing_ok=True)
    with replacing(path.with_suffix(".json")) as temporary:
        Path(temporary).write_text(json.dumps(sidecar, indent=1) + "\n")
    write_video(path, frames, Fraction(recipe.fps), crf=CRF)
    return sidecar


def draw_film(recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    """Draws a film's frames, uint8 (T, H, W, 3), and its truth."""
    preset, fps = get_preset(recipe.preset), Fraction(recipe.fps)
    rng = np.random.default_rng([recipe.seed, recipe.index, recipe.allow == "unseen", recipe.version])
    scenes = _draw_scenes(rng, preset, recipe)
    gaps = [_draw_gap(rng, recipe.gradual_share) for _ in scenes[1:]]  # (type, frames) of each boundary
    parts: list[np.ndarray] = []
    sidecar: dict[str, Any] = {"format": FORMAT, "version": VERSION, "preset": recipe.preset, "seed": recipe.seed, "fps": recipe.fps}
    sidecar |= {"held_out": recipe.allow == "unseen", "recipe": asdict(recipe), "scenes": [], "cuts": [], "gradual": []}
    at, tail = 0, np.empty((0, recipe.height, recipe.width, 3), np.uint8)  # tail: what the next gap mixes with
    for i, (scene, count) in enumerate(scenes):
        (kind, before), after = gaps[i - 1] if i else ("cut", 0), gaps[i][1] if i < len(gaps) else 0
        middle = before + (count - 1) / 2
        shot = render_scene(scene, before + count + after, recipe.height, recipe.width, fps, middle=middle)
        if kind == "cut" and i:
            sidecar["cuts"].append(at)
        elif kind != "cut":
            parts.append(_mix(kind, tail, shot[:before]))
            sidecar["gradual"].append({"type": kind, "first": at, "last": at + before - 1})
            at += before
        parts.append(shot[before : before + count])
        sidecar["scenes"].append(_truth(scene, at, count, fps))
        at, tail = at + count, shot[before + count :]
    return np.concatenate(parts), json.loads(json.dumps(sidecar))


def _draw_scenes(rng: np.random.Generator, preset: Preset, recipe: Recipe) -> list[tuple[Scene, int]]:
    """Draws scenes, each by itself, but again where the colour is its neighbour's: that cut could hardly be seen."""
    triples = allowed_triples(preset, recipe.allow)
    short = min(recipe.height, recipe.width)
    aspect = (recipe.height / short, recipe.width / short)
    scenes: list[tuple[Scene, int]] = []
    while len(scenes) < recipe.scenes:
        count = int(rng.integers(recipe.frames_per_scene[0], recipe.frames_per_scene[1] + 1))
        seconds = (count - 1) / float(Fraction(recipe.fps))
        scene = draw_scene(rng, preset, triples=triples, seconds=seconds, aspect=aspect)
        if not scenes or scenes[-1][0].fields["colour"] != scene.fields["colour"]:
            scenes.append((scene, count))
    return scenes


def _draw_gap(rng: np.random.Generator, gradual_share: float) -> tuple[str, int]:
    if rng.random() >= gradual_share:
        return "cut", 0
    return ("dissolve", "fade")[rng.integers(2)], 2 * int(rng.integers(2, 5))


def _mix(kind: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Mixes the frames in which one scene gives way to the next: across each other, or through black."""
    step = ((np.arange(len(after)) + 1) / (len(after) + 1)).astype(np.float32)[:, None, None, None]
    if kind == "dissolve":
        return ((1 - step) * before + step * after + 0.5).astype(np.uint8)
    return np.where(step < 0.5, (1 - 2 * step) * before, (2 * step - 1) * after).clip(0, 255).astype(np.uint8)


def _truth(scene: Scene, first: int, count: int, fps: Fraction) -> dict[str, Any]:
    return {
        "first_frame": first,
        "last_frame": first + count - 1,
        "start_seconds": float(first / fps),
        "end_seconds": float((first + count) / fps),
        "caption": caption(scene),
        "fields": scene.fields,
        "truth": asdict(scene),
    }
