"""Splits one file into scenes and clips in one decode pass; a file that cannot be used becomes a row with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from components.ingest.clips import (
    GAP_SECONDS,
    Reel,
    Scene,
    Words,
    clip_id,
    clip_picture,
    cut_clips,
    encode,
    find_scenes,
    frame_interval,
    thin,
)
from components.ingest.shapes import Piece, Shapes, one_shape, smallest_shape
from components.ingest.transitions import Watcher
from components.media.probe import Probe, probe
from components.media.read import Damage, UnusableFile, cover, fit, read_frames

if TYPE_CHECKING:
    from components.sections import Config

    Source = Mapping[str, Any]

SHORT_SIDE = 64  # scenes are looked for at this size, whatever the size of clips
LONG = 10_000  # frames of a scene of which more than enough clips can be cut
MIN_WHOLE_SHARE = 0.5  # of a damaged file's frames; with fewer it is rejected
MAX_ERROR_SHARE = 0.02  # of frames at which the decoder fails anew: more is damage throughout
READS: tuple[str, ...] = ()
WRITES = ("status", "reason", "scenes", "num_clips")


class CutProposer(AdaptiveDetector):
    """PySceneDetect's adaptive detector, which proposes besides what its content detector would."""

    def __init__(self, adaptive_threshold: float, min_content_value: float, content_threshold: float) -> None:
        super().__init__(adaptive_threshold=adaptive_threshold, min_scene_len=0, min_content_val=min_content_value)
        self._content_threshold = content_threshold

    def process_frame(self, timecode: FrameTimecode, frame_img: np.ndarray) -> list[FrameTimecode]:
        found = super().process_frame(timecode, frame_img)
        return [*found, timecode] if (self._frame_score or 0.0) >= self._content_threshold else found


@dataclass(frozen=True)
class _Seen:
    """What one pass over a film found: the time of each frame, its scenes, what to note, and the reel of its clips' frames."""

    seconds: list[float]
    scenes: list[Scene]
    notes: list[str]
    reel: Reel


def _see(config: Config, source: Source, facts: Probe, sides: tuple[int, int], max_held_bytes: int) -> _Seen:
    """Makes the one decode pass over a film.

    Args:
        sides: height and width of the clips whose frames the reel holds, at most so many bytes of them.

    Raises:
        UnusableFile: too little of it is whole.
    """
    damage, notes = Damage(), list(facts.notes)
    watcher, reel = Watcher(config.scenes), Reel(config.clip.fps, sides, max_held_bytes)
    proposed = _watch(config, source, facts, damage, watcher, reel)
    seconds = watcher.seconds
    notes += _check_damage(damage, len(seconds), facts)
    if len(seconds) == 1:
        return _Seen(seconds, [], notes, reel)
    notes += _timing(seconds, facts, config.footage.max_frames)
    return _Seen(seconds, find_scenes(seconds, watcher.transitions(proposed), config.scenes.trim_gradual_seconds), notes, reel)


def _watch(config: Config, source: Source, facts: Probe, damage: Damage, watcher: Watcher, reel: Reel) -> list[int]:
    """Shows every frame to who looks at it; answers the frames at which PySceneDetect proposes a cut."""
    limits, settings = config.footage, config.scenes
    proposer = CutProposer(settings.adaptive_threshold, settings.min_content_value, settings.content_threshold)
    height, width = fit(facts.height, facts.width, SHORT_SIDE)
    rate = facts.fps or Fraction(25)
    proposed: list[int] = []
    for frame in read_frames(source["uri"], damage, max_frames=limits.max_frames, max_side_pixels=limits.max_side_pixels):
        picture = frame.resized(height, width)
        hole = bool(watcher.seconds) and frame.seconds - watcher.seconds[-1] > GAP_SECONDS
        watcher.see(frame.seconds, picture, frame.after_gap or hole)
        bgr = np.ascontiguousarray(picture[..., ::-1])
        proposed += [found.frame_num for found in proposer.process_frame(FrameTimecode(frame.index, fps=rate), bgr)]
        reel.offer(frame)
    reel.finish(frame_interval(watcher.seconds))
    return proposed


def _piece(config: Config, facts: Probe, ticks: int) -> Piece:
    return Piece(facts.height, facts.width, ticks, still=config.clip.num_frames == 1)


class FindPieces:
    """Stage: one source in, the stretches without a cut that shapes of clips are planned from out; none where it cannot be used."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, source: Source) -> list[Piece]:
        """Finds the pieces of one source, given as `Source.as_dict()`."""
        try:
            facts = probe(source["uri"], self.config.footage)
            seen = _see(self.config, source, facts, (1, 1), 0)
        except (UnusableFile, OSError):
            return []
        if len(seen.seconds) == 1:
            return [Piece(facts.height, facts.width, 1, still=True)]
        return [_piece(self.config, facts, len(run)) for run in seen.reel.runs(seen.seconds, seen.scenes) if run]


class SplitVideo:
    """Stage: one source in, its row of the videos table and its rows of the clips table out."""

    def __init__(self, config: Config, shapes: Shapes | None = None) -> None:
        self.config = config
        self.shapes = shapes or one_shape(config.clip)

    def __call__(self, source: Source) -> dict[str, Any]:
        """Splits one source, given as `Source.as_dict()`.

        Returns:
            {"video": row, "clips": [rows with the clip's bytes in `video`]}
        """
        if source["status"] != "found":
            return {"video": _row(source, status=source["status"], reason=source["reason"]), "clips": []}
        facts: Probe | None = None
        try:
            facts = probe(source["uri"], self.config.footage)
            return self._split(source, facts)
        except (UnusableFile, OSError) as error:
            reason = f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            return {"video": _row(source, facts, status="rejected", reason=reason), "clips": []}

    def _split(self, source: Source, facts: Probe) -> dict[str, Any]:
        config, limits = self.config, self.config.footage
        likely = self.shapes.best(_piece(config, facts, LONG)) or self.shapes.shapes[0]
        seen = _see(config, source, facts, likely.sides, limits.max_held_bytes)
        seconds, scenes, notes, reel = seen.seconds, seen.scenes, seen.notes, seen.reel
        row = {"num_frames": len(seconds), "duration_seconds": seconds[-1] - seconds[0] + frame_interval(seconds), "notes": notes}
        if len(seconds) == 1:
            return self._image(source, facts, row, reel)
        row["scenes"] = [_scene_row(scene) for scene in scenes]
        windows, short, longest = reel.windows(
            seconds,
            scenes,
            config.scenes.min_scene_seconds,
            lambda ticks: self.shapes.cut(_piece(config, facts, ticks)),
        )
        if not windows:
            reason = self._too_short(facts, len(reel.ticks), longest, len(scenes))
            return {"video": _row(source, facts, status="rejected", reason=reason, **row), "clips": []}
        if short:
            notes.append(f"{short} of {len(scenes)} scenes are shorter than one clip")
        kept = thin(windows, config.clip.max_clips_per_video)
        if len(kept) < len(windows):
            notes.append(f"{len(kept)} of {len(windows)} clips taken, `clip.max_clips_per_video`")
        if source["label_caption"] and len(scenes) > 1:
            notes.append(f"the manifest's caption speaks of the whole file, which has {len(scenes)} scenes")
        several = any(window.sides != reel.sides for window in kept)
        again = read_frames(source["uri"], max_side_pixels=limits.max_side_pixels) if reel.full or several else None
        if reel.full:
            notes.append("read twice, since it is too long to be held")
        words, clips = Words(source), []
        for window, frames in zip(kept, cut_clips(kept, reel.pictures, again), strict=True):
            said = words.of(window.start_seconds - seconds[0], window.start_seconds - seconds[0] + len(frames) / config.clip.fps)
            clips.append(self._clip(source, frames, window.scene, window.start_seconds, window.start_seconds - seconds[0], reel, said))
        return {"video": _row(source, facts, status="accepted", num_clips=len(clips), **row), "clips": clips}

    def _image(self, source: Source, facts: Probe, row: dict[str, Any], reel: Reel) -> dict[str, Any]:
        shape = self.shapes.best(Piece(facts.height, facts.width, 1, still=True))
        row |= {"duration_seconds": None, "scenes": []}
        if shape is None:
            reason = self._too_small(facts, still=True)
            return {"video": _row(source, facts, status="rejected", reason=reason, **row) | {"kind": "image"}, "clips": []}
        picture = reel.pictures[0]
        if shape.sides != reel.sides:
            frame = next(read_frames(source["uri"], max_frames=1, max_side_pixels=self.config.footage.max_side_pixels))
            picture = clip_picture(frame, shape.sides)
        said = Words({**source, "sidecar": None}).of(0.0, 0.0)
        clip = self._clip(source, picture[None], 0, 0.0, 0.0, reel, said, kind="image")
        return {"video": _row(source, facts, status="accepted", **row, num_clips=1) | {"kind": "image"}, "clips": [clip]}

    def _clip(
        self,
        source: Source,
        frames: np.ndarray,
        scene: int,
        start_seconds: float,
        offset_seconds: float,
        reel: Reel,
        said: dict[str, str | None],
        kind: str = "video",
    ) -> dict[str, Any]:
        clip, (height, width) = self.config.clip, frames.shape[1:3]
        return {
            "clip_id": clip_id(source["video_id"], offset_seconds),
            "video_id": source["video_id"],
            "scene_index": scene,
            "start_seconds": start_seconds,
            "end_seconds": start_seconds + (len(frames) / clip.fps if kind == "video" else 0.0),
            "crop": cover(*reel.shown, height, width)[2] if reel.shown else None,
            "kind": kind,
            "num_frames": len(frames),
            "fps": str(Fraction(clip.fps)),
            "height": height,
            "width": width,
            "video": encode(frames, clip),
            "source": source["source"],
            "licence": source["licence"],
            "rights": source["rights"],
            **said,
        }

    def _too_short(self, facts: Probe, ticks: int, longest: int, scenes: int) -> str:
        clip, least_seconds = self.config.clip, self.config.scenes.min_scene_seconds
        if not scenes:
            return "no scene is left between its fades and dissolves"
        still = clip.num_frames == 1
        needed = self.shapes.shortest(facts.height, facts.width, still)
        if needed is None:
            needed = smallest_shape(clip, least_seconds, still).num_frames
            if self.shapes.of_kind(still) or longest >= needed:
                return self._too_small(facts, still)
        if longest >= needed:
            return f"none of its {scenes} scenes lasts the {least_seconds:g} seconds of `scenes.min_scene_seconds`"
        if ticks < needed or scenes < 2:
            ticks = min(ticks, longest or ticks)
            return f"shorter than one clip: {ticks} frames at {clip.fps} fps, {needed} needed"
        return f"none of its {scenes} scenes is as long as one clip: at most {longest} frames at {clip.fps} fps, {needed} needed"

    def _too_small(self, facts: Probe, still: bool) -> str:
        """Says why a picture covers none of the shapes of images, or of films."""
        shapes, least = self.shapes.of_kind(still), smallest_shape(self.config.clip, self.config.scenes.min_scene_seconds, still)
        if not shapes and min(facts.height, facts.width) >= least.height:
            return f"no shape is planned for clips of this kind, {'image' if still else 'video'}"
        smallest = min(shapes or [least], key=lambda shape: shape.height * shape.width)
        kind = "planned" if shapes else "possible"
        return f"smaller than every {kind} shape: {facts.width}x{facts.height} pixels, {smallest.width}x{smallest.height} at least"


def _check_damage(damage: Damage, whole: int, facts: Probe) -> list[str]:
    """Answers what to note of damage.

    Raises:
        UnusableFile: too little of the file is whole.
    """
    total = max(facts.declared_frames or 0, whole + damage.frames)
    if whole < MIN_WHOLE_SHARE * total:
        raise UnusableFile(f"damaged or cut off: only {whole} of {total} frames decode")
    if damage.errors > 3 and damage.errors > MAX_ERROR_SHARE * total:
        raise UnusableFile(f"damaged throughout: the decoder fails {damage.errors} times in {total} frames")
    return [f"damaged or cut off: {whole} of {total} frames decode"] if whole < total else []


def _timing(seconds: list[float], facts: Probe, max_frames: int) -> list[str]:
    """Answers what to note of a film's times."""
    notes = []
    steps = np.diff(seconds)
    spent = seconds[-1] - seconds[0] + float(np.median(steps))
    if float(np.percentile(steps, 95)) > 1.25 * float(np.percentile(steps, 5)) + 0.002:
        notes.append("variable frame rate, taken by its times")
    if facts.duration_seconds and spent < 0.9 * facts.duration_seconds and len(seconds) < max_frames:
        notes.append(f"the header promises {facts.duration_seconds:.1f} seconds, {spent:.1f} are there")
    if len(seconds) >= max_frames:
        notes.append(f"read up to `footage.max_frames` {max_frames}")
    return notes


def _scene_row(scene: Scene) -> dict[str, Any]:
    return {
        "start_seconds": scene.start_seconds,
        "end_seconds": scene.end_seconds,
        "first_frame": scene.first,
        "last_frame": scene.last,
        "transition": scene.transition,
    }


def _row(source: Source, facts: Probe | None = None, **columns: Any) -> dict[str, Any]:
    """Answers a row of the videos table."""
    row = {
        "video_id": source["video_id"],
        "uri": source["uri"],
        "places": list(source["places"]),
        "stat": source["stat"],
        "reason": None,
        "notes": list(facts.notes) if facts else [],
        "kind": facts.kind if facts else source["kind"],
        "num_bytes": source["num_bytes"],
        "source": source["source"],
        "licence": source["licence"],
        "rights": source["rights"],
        "label_caption": source["label_caption"],
        "label_by": source["label_by"],
        "scenes": [],
        "num_clips": 0,
    }
    if facts:
        row |= {
            "container": facts.container,
            "codec": facts.codec,
            "pix_fmt": facts.pix_fmt,
            "width": facts.width,
            "height": facts.height,
            "rotation": facts.rotation,
            "fps": str(facts.fps) if facts.fps else None,
            "declared_frames": facts.declared_frames,
            "duration_seconds": facts.duration_seconds,
            "has_audio": facts.has_audio,
        }
    return row | columns
