"""Writes a film as an MP4 file that a browser plays, with what made it written inside, and a contact sheet beside it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.generate.verbs import Film
from components.media.write import write_sheet, write_stream, write_video

SHEET_PICTURES, SHEET_HEIGHT = 9, 96  # pixels that a small picture grows to


def write_film(path: Path, film: Film, fps: int, made: Mapping[str, Any]) -> Path:
    """Writes the frames of the first of a batch as they are made, and answers the contact sheet's path.

    Args:
        made: JSON values on what made it, with `prompt` among them; `components.media.probe.read_metadata` answers them again.
    """
    picked: list[np.ndarray] = []
    wanted = set(np.linspace(0, film.num_frames - 1, min(SHEET_PICTURES, film.num_frames)).round().astype(int).tolist())

    def pictures() -> Iterator[np.ndarray]:
        at = 0
        for chunk in film.chunks:
            for picture in chunk[0]:
                if at in wanted:
                    picked.append(picture)
                at += 1
                yield picture

    write_stream(path, pictures(), fps, metadata=metadata_of(made))
    sheet = sheet_of(path)
    write_sheet(sheet, [np.stack(picked)], scale=max(1, round(SHEET_HEIGHT / picked[0].shape[0])))
    return sheet


def sheet_of(path: Path) -> Path:
    """Answers where a film's contact sheet lies: of `ring.mp4` it is `ring.sheet.png`, since `ring.png` may be a picture of somebody's."""
    return path.with_suffix(".sheet.png")


def film_bytes(film: Film, fps: int, made: Mapping[str, Any]) -> bytes:
    """Answers the same file as bytes."""
    return write_video(None, film.whole()[0], fps, metadata=metadata_of(made)) or b""


def metadata_of(made: Mapping[str, Any]) -> dict[str, str]:
    """Answers what made a film as MP4 files keep it: the prompt as title, all of it as JSON in the comment."""
    return {"title": str(made["prompt"]), "comment": json.dumps(dict(made), sort_keys=True)}
