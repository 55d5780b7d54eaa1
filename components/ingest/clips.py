"""Cuts clips out of scenes: frames nearest to the ticks of the clip rate, never across a cut, and what is said of them."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.ingest.shapes import Shape
from components.media.read import Frame, cover
from components.media.write import write_video

if TYPE_CHECKING:
    from components.ingest.transitions import Transition
    from components.sections import Clip

WORLD_FORMAT = "kinora-world"
MIN_OVERLAP = 0.8  # of a clip with the one scene whose words it takes
GAP_SECONDS = 2.0  # a longer wait between two frames is a hole, not a slow film


@dataclass(frozen=True)
class Scene:
    """Frames `first` to `last` between two transitions; `transition` is how it begins: start, cut, dissolve, fade or gap."""

    first: int
    last: int
    start_seconds: float
    end_seconds: float
    transition: str
    usable_from: float
    usable_to: float


@dataclass(frozen=True)
class Window:
    """One clip to be made: the scene it lies in, the source frame of each of its frames, and its height and width."""

    scene: int
    frames: tuple[int, ...]
    start_seconds: float
    sides: tuple[int, int]


def find_scenes(seconds: Sequence[float], transitions: Sequence[Transition], trim_gradual_seconds: float) -> list[Scene]:
    """Answers the scenes between transitions; near gradual ones some time is left unused."""
    scenes: list[Scene] = []
    interval = frame_interval(seconds)
    first, begins = 0, "start"
    for i in range(len(transitions) + 1):
        ends = transitions[i] if i < len(transitions) else None
        last = ends.first - 1 if ends is not None else len(seconds) - 1
        if last >= first:
            end = seconds[last + 1] if last + 1 < len(seconds) else seconds[last] + interval
            before = trim_gradual_seconds if begins in ("dissolve", "fade") else 0.0
            after = trim_gradual_seconds if ends is not None and ends.kind in ("dissolve", "fade") else 0.0
            scenes.append(Scene(first, last, seconds[first], end, begins, seconds[first] + before, seconds[last] - after))
        if ends is not None:
            first, begins = ends.last + 1, ends.kind
    return scenes


def frame_interval(seconds: Sequence[float]) -> float:
    """Answers the usual time from one frame to the next; 0 for a single frame."""
    return float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0


class Reel:
    """Keeps, at the size of clips, the frames that lie nearest to the ticks of the clip rate.

    It holds at most `max_bytes`; beyond that it lets all pictures go, `full` tells so, and the film is read again for its clips.
    """

    def __init__(self, fps: int, sides: tuple[int, int], max_bytes: int) -> None:
        self.fps = fps
        self.sides = sides
        self.max_bytes = max_bytes
        self.ticks: list[tuple[int, int]] = []  # (tick, frame), the ticks counted from the first frame
        self.pictures: dict[int, np.ndarray] = {}
        self.full = False
        self.shown: tuple[int, int] | None = None  # height and width of the film
        self._start = 0.0
        self._waiting: Frame | None = None
        self._next_tick = 0

    def offer(self, frame: Frame) -> None:
        """Takes in the next frame; whether it is kept shows when the one after it comes."""
        before, self._waiting = self._waiting, frame
        if before is None:
            self._start = frame.seconds
            self.shown = (frame.height, frame.width)
        elif frame.seconds - before.seconds > GAP_SECONDS:
            self._settle(before, before.seconds)
            self._next_tick = max(self._next_tick, round((frame.seconds - self._start) * self.fps))
        else:
            self._settle(before, (before.seconds + frame.seconds) / 2)

    def finish(self, interval: float) -> None:
        """Settles the last frame, which is shown for one more interval, but makes no tick of its own by that."""
        if self._waiting is not None:
            self._settle(self._waiting, self._waiting.seconds + min(interval, 0.5 / self.fps))
            self._waiting = None

    def _settle(self, frame: Frame, until: float) -> None:
        wanted = False
        while self._start + self._next_tick / self.fps <= until + 1e-6:
            self.ticks.append((self._next_tick, frame.index))
            self._next_tick += 1
            wanted = True
        if wanted and not self.full:
            self.pictures[frame.index] = clip_picture(frame, self.sides)
            if len(self.pictures) > 1 and len(self.pictures) * self.sides[0] * self.sides[1] * 3 > self.max_bytes:
                self.full = True
                self.pictures.clear()

    def windows(
        self, seconds: Sequence[float], scenes: Sequence[Scene], min_scene_seconds: float, cut: Callable[[int], Sequence[tuple[int, Shape]]]
    ) -> tuple[list[Window], int, int]:
        """Spreads clips over scenes.

        Args:
            cut: answers for so many ticks at which of them each clip begins, and its shape.

        Returns:
            the windows in order; how many scenes are too short; the most ticks in a row that any scene has.
        """
        windows, short, longest = [], 0, 0
        for number, (scene, ticks) in enumerate(zip(scenes, self.runs(seconds, scenes), strict=True)):
            longest = max(longest, len(ticks))
            places = cut(len(ticks))
            if not places or scene.end_seconds - scene.start_seconds < min_scene_seconds - 1e-6:
                short += 1
                continue
            for at, shape in places:
                chosen = ticks[at : at + shape.num_frames]
                start = self._start + chosen[0][0] / self.fps
                windows.append(Window(number, tuple(frame for _, frame in chosen), start, shape.sides))
        return windows, short, longest

    def runs(self, seconds: Sequence[float], scenes: Sequence[Scene]) -> list[list[tuple[int, int]]]:
        """Answers the ticks of each scene between holes in the film, of the longest such part."""
        return [self._longest_run(seconds, scene) for scene in scenes]

    def _longest_run(self, seconds: Sequence[float], scene: Scene) -> list[tuple[int, int]]:
        runs: list[list[tuple[int, int]]] = [[]]
        for tick, frame in self.ticks[bisect_left(self.ticks, scene.first, key=itemgetter(1)) :]:
            if frame > scene.last:
                break
            if scene.usable_from - 1e-6 <= seconds[frame] <= scene.usable_to + 1e-6:
                if runs[-1] and runs[-1][-1][0] != tick - 1:
                    runs.append([])
                runs[-1].append((tick, frame))
        return max(runs, key=len)


def thin(windows: list[Window], most: int) -> list[Window]:
    """Keeps at most so many windows, evenly over the film."""
    if len(windows) <= most:
        return windows
    return [windows[i * len(windows) // most] for i in range(most)]


def clip_picture(frame: Frame, sides: tuple[int, int]) -> np.ndarray:
    """Answers a frame at the size of clips: the short side resized over area, the rest cropped away from both ends."""
    height, width, _ = cover(frame.height, frame.width, *sides)
    top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
    return np.ascontiguousarray(frame.resized(height, width)[top : top + sides[0], left : left + sides[1]])


def cut_clips(windows: Sequence[Window], pictures: Mapping[int, np.ndarray], again: Iterator[Frame] | None) -> Iterator[np.ndarray]:
    """Yields the frames of each window, uint8 (T, H, W, 3): from the pictures held, or else by reading the film again."""
    if again is None:
        for window in windows:
            yield np.stack([pictures[index] for index in window.frames])
        return
    held: dict[tuple[int, tuple[int, int]], np.ndarray] = {}
    waiting = list(windows)
    for frame in again:
        while waiting and frame.index > waiting[0].frames[-1]:
            yield _taken(held, waiting.pop(0))
            held = {key: picture for key, picture in held.items() if waiting and key[0] >= waiting[0].frames[0]}
        if not waiting:
            return
        for window in waiting:
            if frame.index < window.frames[0]:
                break
            if frame.index in window.frames and (frame.index, window.sides) not in held:  # it is in several where it is shown for long
                held[frame.index, window.sides] = clip_picture(frame, window.sides)
    for window in waiting:
        yield _taken(held, window)


def _taken(held: Mapping[tuple[int, tuple[int, int]], np.ndarray], window: Window) -> np.ndarray:
    return np.stack([held[index, window.sides] for index in window.frames])


def encode(frames: np.ndarray, clip: Clip) -> bytes:
    """Encodes a clip for the table: full chroma, since only this house's own reader will open it."""
    return write_video(None, frames, clip.fps, crf=clip.crf, pix_fmt="yuv444p") or b""


def clip_id(video_id: str, start_seconds: float) -> str:
    """Names a clip by its content and its start, counted from the film's first frame."""
    return f"{video_id[:16]}-{max(0, round(start_seconds * 1000)):09d}"


class Words:
    """What is said of a film's clips: the true scene of a sidecar of the synthetic world, or a manifest's caption of the whole file."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self.caption, self.by = source["label_caption"], source["label_by"]
        self.scenes: list[dict[str, Any]] = []
        self.unseen = False
        if source["sidecar"] is not None:
            self._read(Path(source["sidecar"]))

    def _read(self, path: Path) -> None:
        """Takes in a sidecar; one that is not of the synthetic world, or torn, says nothing."""
        try:
            data = path.read_bytes()
            truth = json.loads(data)
            if not isinstance(truth, dict) or truth.get("format") != WORLD_FORMAT:
                return
            scenes = [{name: scene[name] for name in ("start_seconds", "end_seconds", "caption", "fields")} for scene in truth["scenes"]]
            self.scenes, self.unseen = scenes, bool(truth["held_out"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        self.caption, self.by = None, f"sidecar:{hashlib.sha256(data).hexdigest()[:8]}"

    def of(self, start: float, end: float) -> dict[str, str | None]:
        """Answers label_caption, label_by and truth of the clip between two times, counted from the film's first frame."""
        if not self.scenes:
            return {"label_caption": self.caption, "label_by": self.by if self.caption else None, "truth": None}
        overlaps = [min(end, scene["end_seconds"]) - max(start, scene["start_seconds"]) for scene in self.scenes]
        number = int(np.argmax(overlaps))
        if overlaps[number] < MIN_OVERLAP * (end - start):
            return {"label_caption": None, "label_by": None, "truth": None}
        scene = self.scenes[number]
        truth = {"fields": scene["fields"], "unseen": self.unseen, "scene": number}
        return {"label_caption": scene["caption"], "label_by": self.by, "truth": json.dumps(truth, sort_keys=True)}
