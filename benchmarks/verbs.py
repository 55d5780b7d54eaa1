"""Do the verbs of one checkpoint keep what they are given, go on from it, and move?

Run: python -m benchmarks.verbs --project runs/demo [--model FOLDER] [--clips 64] [--quick]

Of a finished project of the synthetic world (`make demo`). Fresh scenes, which no training saw, give the first frame, the beginning, the
end, or both to the model, told the caption of the scene, and it makes the rest of the clip:
- kept frames: their PSNR against the scene's, as they are decoded from the latents that the sampler answers, nothing pasted back, less
  the PSNR of the same frames when the VAE alone reconstructs the finished video, the given frames in it as they came; at least -0.1 dB.
  Beside it, less their PSNR in the VAE's reconstruction of the whole real clip: the VAE looks back, so frames behind generated ones are
  decoded worse the further what was generated is from what was there;
- direction: what the reader, which sees the generated frames and the one kept frame beside them, says of the motion; right in at least
  0.9 of the scenes. Beside it, the reader's ceiling on the same frames of the real clip, and the share where the model is told nothing,
  so that the direction can come from the kept frames alone;
- motion: optical flow of the generated part against that of the same frames of the real clip, the means over scenes; at least half;
- loops, of scenes and of text: the step from the last frame to the first against the larger of the steps beside it, the means over
  loops; at most 1. Beside it, the same where new frames are not eased into the video, and the largest step on the way back against the
  largest of the video's own, since an eased seam may leave a jump further in;
- edits, at the strength of `kinora generate --edit`, by the caption with another colour: the share with that colour, and with the shape
  and the motion that video and caption have; each at least 0.9. Beside it, how far the object is from where the video has it, as a share
  of how far it is where the model has the caption alone;
- images of text: the share whose colour and shape the reader sees as told, beside that of the first frames of clips of the same text.
The last line is one JSON object.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.generate import verbs, windows
from components.generate.ask import STRENGTH
from components.generate.generator import Generator
from components.generate.sampling import Sampling
from components.measure.distortion import psnr
from components.measure.motion import motion
from components.operations.freshness import model_folder
from components.store.project import Project
from components.world.reader import read
from components.world.render import allowed_triples, render_clips
from components.world.sight import find_blob
from components.world.vocabulary import Scene, caption, get_preset

KEPT_BAR, DIRECTION_BAR, MOTION_BAR, SEAM_BAR, EDIT_BAR = -0.1, 0.9, 0.5, 1.0, 0.9
SCENES_SEED = 70_001  # of scenes that no film of a project shows
AT_ONCE = 32


@dataclass(frozen=True)
class Task:
    """What of a real clip a verb is given, and where in it the generated frames are.

    Attributes:
        make: (sampling, clips uint8 (B, T, H, W, 3)) -> the clips as the verb makes them, nothing pasted back.
        new: of the generated frames, within the clip.
    """

    make: Callable[[Sampling, np.ndarray], np.ndarray]
    new: slice


def tasks_of(length: int, group: int, token: int) -> dict[str, Task]:
    """Answers the tasks of clips of so many frames, for a model of so deep tokens; each answer is as long as the clip."""
    behind, ahead = (share(length, group, token) for share in (windows.window_behind, windows.window_ahead))
    between = windows.window_between(length, group, token=token)

    def image(sampling: Sampling, clips: np.ndarray) -> np.ndarray:
        return verbs.clip(sampling, clips.shape[2:4], length, [(0, clips[:, :1])], paste=False).whole()

    def extend(sampling: Sampling, clips: np.ndarray) -> np.ndarray:
        return verbs.extended(sampling, clips[:, : behind.frames_before], length, paste=False).whole()

    def backward(sampling: Sampling, clips: np.ndarray) -> np.ndarray:
        return verbs.led_to(sampling, clips[:, ahead.frames_new :], length, paste=False).whole()

    def connect(sampling: Sampling, clips: np.ndarray) -> np.ndarray:
        before, after = clips[:, : between.frames_before], clips[:, length - between.frames_after :]
        return verbs.joined(sampling, before, after, length, paste=False).whole()

    middle = slice(between.frames_before, length - between.frames_after)
    return {
        "image": Task(image, slice(1, length)),
        "extend": Task(extend, slice(behind.frames_before, length)),
        "backward": Task(backward, slice(0, ahead.frames_new)),
        "connect": Task(connect, middle),
    }


def in_batches(
    generator: Generator, told: Sequence[str], clips: np.ndarray, make: Callable[[Sampling, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Makes clips a batch at a time, each with a seed of its own."""
    made = []
    for start in range(0, len(told), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        made.append(make(generator.sampling(told[part], range(start, start + len(told[part]))), clips[part]))
    return np.concatenate(made)


def reconstructed(generator: Generator, clips: np.ndarray) -> np.ndarray:
    def through(sampling: Sampling, batch: np.ndarray) -> np.ndarray:
        return np.concatenate(list(sampling.decoded(sampling.encoded(batch))), axis=1)

    return in_batches(generator, ["a clip"] * len(clips), clips, through)


def finished(made: np.ndarray, real: np.ndarray, new: slice) -> np.ndarray:
    """Answers clips as they were made, the given frames in them as they came."""
    whole = real.copy()
    whole[:, new] = made[:, new]
    return whole


def kept_decibels(made: np.ndarray, real: np.ndarray, back: np.ndarray, new: slice) -> float:
    """Answers how much better than the VAE's reconstruction the kept frames are, in dB, the mean over clips."""
    kept = np.delete(np.arange(real.shape[1]), new)
    return float(np.mean([psnr(made[i, kept], real[i, kept]) - psnr(back[i, kept], real[i, kept]) for i in range(len(real))]))


def beside(new: slice, length: int) -> slice:
    """Answers the generated frames with the one kept frame beside them."""
    return slice(max(0, new.start - 1), min(length, new.stop + (new.start == 0)))


def right(clips: np.ndarray, scenes: Sequence[Scene], frames: slice, preset: str) -> float:
    """Answers the share of clips in whose frames the reader sees the scene's motion."""
    return float(
        np.mean([read(clip[frames], preset)["motion"] == scene.fields["motion"] for clip, scene in zip(clips, scenes, strict=True)])
    )


def moved(made: np.ndarray, real: np.ndarray, frames: slice, fps: int) -> float:
    """Answers how much frames move, as a share of how much real ones do."""
    found, wanted = (np.mean([motion(clip[frames], fps) for clip in clips]) for clips in (made, real))
    return float(found / wanted)


def steps_of(loops: np.ndarray) -> np.ndarray:
    """Answers how far each frame is from the next, the last one from the first: root mean squares, (B, T)."""
    return np.stack([np.sqrt(np.square(np.diff(loop, axis=0, append=loop[:1])).mean(axis=(1, 2, 3))) for loop in loops.astype(np.float64)])


def seam(loops: np.ndarray) -> float:
    """Answers the step from the last frame to the first against the larger of the two steps beside it."""
    steps = steps_of(loops)
    return float(steps[:, -1].mean() / np.maximum(steps[:, -2], steps[:, 0]).mean())


def way_back(loops: np.ndarray, length: int) -> float:
    """Answers the largest step from the video's last frame on against the largest within it, a video of `length` frames."""
    steps = steps_of(loops)
    return float(steps[:, length - 1 :].max(axis=1).mean() / steps[:, : length - 1].max(axis=1).mean())


def checked(value: float, bar: float | None, at_most: bool = False) -> dict[str, Any]:
    holds = None if bar is None else value <= bar if at_most else value >= bar
    return {"value": round(value, 4), "bar": bar, "holds": holds}


def measure(generator: Generator, count: int, preset: str) -> dict[str, dict[str, Any]]:
    """Runs every task and answers the figures."""
    (height, width), fps = generator.shapes.size(None, None), generator.fps
    length = generator.shapes.length((height, width), None)
    real, scenes = render_clips(preset, count, num_frames=length, height=height, width=width, fps=fps, seed=SCENES_SEED, allow="seen")
    told, back = [caption(scene) for scene in scenes], reconstructed(generator, real)
    figures: dict[str, dict[str, Any]] = {}
    for name, task in tasks_of(length, generator.vae.frames, generator.token).items():
        made = in_batches(generator, told, real, task.make)
        alone = reconstructed(generator, finished(made, real, task.new))
        figures[f"{name}, kept frames, dB above the VAE's"] = checked(kept_decibels(made, real, alone, task.new), KEPT_BAR)
        figures[f"{name}, kept frames, dB above the VAE's of the whole clip"] = checked(kept_decibels(made, real, back, task.new), None)
        figures[f"{name}, motion, of real"] = checked(moved(made, real, beside(task.new, length), fps), MOTION_BAR)
        if name in ("extend", "backward"):
            seen = beside(task.new, length)
            untold = in_batches(generator, [generator.settings()["negative_prompt"]] * count, real, task.make)
            figures[f"{name}, right direction"] = checked(right(made, scenes, seen, preset), DIRECTION_BAR)
            figures[f"{name}, right direction, told nothing"] = checked(right(untold, scenes, seen, preset), None)
            figures[f"{name}, right direction, real"] = checked(right(real, scenes, seen, preset), None)
        print("; ".join(f"{key} {value['value']}" for key, value in figures.items() if key.startswith(f"{name},")), flush=True)
    for of, make in {"a video": loop_of_video, "text": loop_of_text}.items():
        eased, plain = (in_batches(generator, told, real, partial(make, length=length, ease=ease)) for ease in (True, False))
        figures[f"loop of {of}, seam against the steps beside it"] = checked(seam(eased), SEAM_BAR, at_most=True)
        figures[f"loop of {of}, the same not eased"] = checked(seam(plain), None)
        figures[f"loop of {of}, largest step back, of the video's largest"] = checked(way_back(eased, length), None)
    figures |= edits(generator, real, scenes, length, preset)
    return figures | images_of_text(generator, told, scenes, length, preset)


def loop_of_video(sampling: Sampling, clips: np.ndarray, length: int, ease: bool) -> np.ndarray:
    return verbs.looped(sampling, verbs.of_video(clips), length, ease=ease).whole()


def loop_of_text(sampling: Sampling, clips: np.ndarray, length: int, ease: bool) -> np.ndarray:
    return verbs.looped(sampling, verbs.clip(sampling, clips.shape[2:4], length), length, ease=ease).whole()


def edits(generator: Generator, real: np.ndarray, scenes: Sequence[Scene], length: int, preset: str) -> dict[str, dict[str, Any]]:
    """Draws real clips anew in another colour, one that training shows of the shape and the motion, and answers what is seen."""
    wanted = [other_colour(scene, place, preset) for place, scene in enumerate(scenes)]
    told = [caption(scene).replace(scene.fields["colour"], colour) for scene, colour in zip(scenes, wanted, strict=True)]

    def make(sampling: Sampling, clips: np.ndarray, strength: float) -> np.ndarray:
        return verbs.edited(sampling, clips, length, strength).whole()

    made, alone = (in_batches(generator, told, real, partial(make, strength=strength)) for strength in (STRENGTH, 1.0))
    seen, figures = [read(clip, preset) for clip in made], {}
    for field in ("colour", "shape", "motion"):
        asked = wanted if field == "colour" else [scene.fields[field] for scene in scenes]
        right = float(np.mean([answer[field] == value for answer, value in zip(seen, asked, strict=True)]))
        figures[f"edit, right {field}"] = checked(right, EDIT_BAR)
    away = [np.nanmedian(np.linalg.norm(centres(clips, preset) - centres(real, preset), axis=-1)) for clips in (made, alone)]
    return figures | {"edit, distance from the video, of text alone": checked(float(away[0] / away[1]), None)}


def other_colour(scene: Scene, place: int, preset: str) -> str:
    """Answers another colour than a scene's, of those that training shows of its shape and motion; by its place, so that all come."""
    named = scene.fields
    others = [
        colour
        for colour, shape, motion in sorted(allowed_triples(get_preset(preset), "seen"))
        if (shape, motion) == (named["shape"], named["motion"]) and colour != named["colour"]
    ]
    return others[place % len(others)]


def centres(clips: np.ndarray, preset: str) -> np.ndarray:
    """Answers where the object of each frame is, (B, T, 2) in short sides of it; nan where none is seen."""
    found = np.full((*clips.shape[:2], 2), np.nan)
    at = np.stack([*np.mgrid[: clips.shape[2], : clips.shape[3]]], axis=-1) / min(clips.shape[2:4])  # (H, W, 2)
    for place, clip in enumerate(clips):
        blob = find_blob(clip, get_preset(preset).colours, bridge=1)
        if blob is not None:
            weights = blob.mask.sum(axis=(1, 2))
            found[place] = (blob.mask[..., None] * at).sum(axis=(1, 2)) / np.where(weights > 0, weights, np.nan)[:, None]
    return found


def images_of_text(
    generator: Generator, told: Sequence[str], scenes: Sequence[Scene], length: int, preset: str
) -> dict[str, dict[str, Any]]:
    """Answers how often images, and the first frames of clips, show the colour and the shape that they were told."""
    seeds, figures = range(len(told)), {}
    for what, frames in {"an image": 1, "the first frame of a clip": length}.items():
        made = generator.generate(told, seeds, num_frames=frames, rewrite=False)
        seen = [read(sample.frames[:1], preset) for sample in made]
        for field in ("colour", "shape"):
            right = np.mean([answer[field] == scene.fields[field] for answer, scene in zip(seen, scenes, strict=True)])
            figures[f"{what} of text, right {field}"] = checked(float(right), None)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path("runs/demo"), help="a project's folder, whose diffusion transformer is taken")
    parser.add_argument("--model", type=Path, help="a text-to-video folder in its place")
    parser.add_argument("--preset", default="demo", help="of the synthetic world that it learned")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="8 scenes: shows that it runs, not what it reaches")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.model or model_folder("train_dit", Project(args.project.parent, args.project.name))
    if folder is None:
        raise SystemExit(
            f"`{args.project}` is no project's folder with a finished `train_dit`; hint: `--project runs/demo` after `make demo`"
        )
    print(json.dumps(measure(Generator.load(folder), 8 if args.quick else args.clips, args.preset)))


if __name__ == "__main__":
    main()
