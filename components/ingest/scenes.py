"""Splits one file into scenes and clips in one decode pass; a file that cannot be used becomes a row with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from components.ingest.clips import GAP_SECONDS, Reel, Scene, Words, clip_id, cut_clips, encode, find_scenes, frame_interval, thin
from components.ingest.transitions import Watcher
from components.media.probe import Probe, probe
from components.media.read import Damage, UnusableFile, fit, read_frames

if TYPE_CHECKING:
    from components.sections import Config

    Source = Mapping[str, Any]

SHORT_SIDE = 64  # scenes are looked for at this size, whatever the size of clips
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


class SplitVideo:
    """Stage: one source in, its row of the videos table and its rows of the clips table out."""

    def __init__(self, config: Config) -> None:
        self.config = config

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
        damage, notes = Damage(), list(facts.notes)
        watcher = Watcher(config.scenes)
        reel = Reel(config.clip, limits.max_held_bytes)
        proposed = self._watch(source, facts, damage, watcher, reel)
        seconds = watcher.seconds
        notes += _check_damage(damage, len(seconds), facts)
        row = {"num_frames": len(seconds), "duration_seconds": seconds[-1] - seconds[0] + frame_interval(seconds), "notes": notes}
        if len(seconds) == 1:
            return self._image(source, facts, row, reel)
        notes += _timing(seconds, facts, limits.max_frames)
        scenes = find_scenes(seconds, watcher.transitions(proposed), config.scenes.trim_gradual_seconds)
        row["scenes"] = [_scene_row(scene) for scene in scenes]
        windows, short, longest = reel.windows(seconds, scenes, config.scenes.min_scene_seconds)
        if not windows:
            reason = self._too_short(len(reel.ticks), longest, len(scenes))
            return {"video": _row(source, facts, status="rejected", reason=reason, **row), "clips": []}
        if short:
            notes.append(f"{short} of {len(scenes)} scenes are shorter than one clip")
        kept = thin(windows, config.clip.max_clips_per_video)
        if len(kept) < len(windows):
            notes.append(f"{len(kept)} of {len(windows)} clips taken, `clip.max_clips_per_video`")
        if source["label_caption"] and len(scenes) > 1:
            notes.append(f"the manifest's caption speaks of the whole file, which has {len(scenes)} scenes")
        again = read_frames(source["uri"], max_side_pixels=limits.max_side_pixels) if reel.full else None
        if reel.full:
            notes.append("read twice, since it is too long to be held")
        words, clips = Words(source), []
        for window, frames in zip(kept, cut_clips(kept, reel.pictures, again, config.clip), strict=True):
            said = words.of(window.start_seconds - seconds[0], window.start_seconds - seconds[0] + len(frames) / config.clip.fps)
            clips.append(self._clip(source, frames, window.scene, window.start_seconds, window.start_seconds - seconds[0], reel.crop, said))
        return {"video": _row(source, facts, status="accepted", num_clips=len(clips), **row), "clips": clips}

    def _watch(self, source: Source, facts: Probe, damage: Damage, watcher: Watcher, reel: Reel) -> list[int]:
        """Makes the one pass over a file; answers the frames at which PySceneDetect proposes a cut."""
        limits, settings = self.config.footage, self.config.scenes
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

    def _image(self, source: Source, facts: Probe, row: dict[str, Any], reel: Reel) -> dict[str, Any]:
        said = Words({**source, "sidecar": None}).of(0.0, 0.0)
        clip = self._clip(source, reel.pictures[0][None], 0, 0.0, 0.0, reel.crop, said, kind="image")
        row |= {"duration_seconds": None, "num_clips": 1, "scenes": []}
        return {"video": _row(source, facts, status="accepted", **row) | {"kind": "image"}, "clips": [clip]}

    def _clip(
        self,
        source: Source,
        frames: np.ndarray,
        scene: int,
        start_seconds: float,
        offset_seconds: float,
        crop: list[int] | None,
        said: dict[str, str | None],
        kind: str = "video",
    ) -> dict[str, Any]:
        clip = self.config.clip
        return {
            "clip_id": clip_id(source["video_id"], offset_seconds),
            "video_id": source["video_id"],
            "scene_index": scene,
            "start_seconds": start_seconds,
            "end_seconds": start_seconds + (len(frames) / clip.fps if kind == "video" else 0.0),
            "crop": crop,
            "kind": kind,
            "num_frames": len(frames),
            "fps": str(Fraction(clip.fps)),
            "height": clip.height,
            "width": clip.width,
            "video": encode(frames, clip),
            "source": source["source"],
            "licence": source["licence"],
            "rights": source["rights"],
            **said,
        }

    def _too_short(self, ticks: int, longest: int, scenes: int) -> str:
        clip = self.config.clip
        if not scenes:
            return "no scene is left between its fades and dissolves"
        if ticks < clip.num_frames or scenes < 2:
            ticks = min(ticks, longest or ticks)
            return f"shorter than one clip: {ticks} frames at {clip.fps} fps, {clip.num_frames} needed"
        return f"none of its {scenes} scenes is as long as one clip: at most {longest} frames at {clip.fps} fps, {clip.num_frames} needed"


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
