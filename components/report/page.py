"""The pieces a self-contained page is made of: escaped text, pictures and films inside the file, one style sheet."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from components.measure.consistency import shrunk
from components.media.write import encode_png, write_video

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"  # nothing from anywhere, no script
STYLE = Path(__file__).with_name("style.css")


def text(value: object) -> str:
    """Makes any text safe between tags and inside attributes."""
    return html.escape(str(value), quote=True)


def page(title: str, body: str) -> str:
    """Wraps a body as one HTML file that asks for nothing from anywhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{text(title)}</title>\n<style>\n{STYLE.read_text()}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(name: str, title: str, lead: str, body: str) -> str:
    """One section of the page; empty when it has no body."""
    if not body:
        return ""
    lead = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return f'<section id="{text(name)}">\n<h2>{text(title)}</h2>\n{lead}\n{body}\n</section>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; `numeric` columns are set to the right."""
    kind = ["num" if i in numeric else "" for i in range(len(head))]
    top = "".join(f'<th class="{k}">{text(cell)}</th>' for k, cell in zip(kind, head, strict=True))
    lines = "\n".join(
        "<tr>"
        + "".join(f'<td class="{k}" data-label="{text(h)}">{cell}</td>' for k, h, cell in zip(kind, head, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table></div>' if lines else ""


def mark(holds: bool | None, yes: str = "holds", no: str = "not reached") -> str:
    """A word with a tick or a cross: colour alone says nothing to some."""
    if holds is None:
        return ""
    return f'<span class="mark good">&#10003; {text(yes)}</span>' if holds else f'<span class="mark bad">&#10007; {text(no)}</span>'


def picture(image: np.ndarray, alt: str, css: str = "") -> str:
    """An image uint8 (H, W, 3) inside the page."""
    data = base64.b64encode(encode_png(np.ascontiguousarray(image))).decode()
    height, width = image.shape[:2]
    return f'<img class="{css}" width="{width}" height="{height}" alt="{text(alt)}" loading="lazy" src="data:image/png;base64,{data}">'


def strip(frames: np.ndarray, alt: str, count: int = 4) -> str:
    """Evenly spaced frames side by side."""
    return f'<div class="strip">{"".join(picture(frame, alt) for frame in shrunk(np.stack(evenly(frames, count))))}</div>'


def film(video: bytes, alt: str, css: str = "") -> str:
    """An MP4 inside the page, playing by itself in a loop."""
    data = base64.b64encode(video).decode()
    return (
        f'<video class="{css}" autoplay loop muted playsinline disablepictureinpicture aria-label="{text(alt)}" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )


def film_of(frames: np.ndarray, fps: Fraction | int, alt: str, css: str = "") -> str:
    """Frames uint8 (T, H, W, 3) as a small film inside the page; a single frame is a picture."""
    frames = shrunk(frames)
    if len(frames) == 1:
        return picture(frames[0], alt, css)
    return film(write_video(None, frames, fps, crf=16) or b"", alt, css)


def chips(truth: Mapping[str, str | None] | None, found: Mapping[str, str | None] | None) -> str:
    """Marks each field of a truth as found or not, with a sign beside the colour."""
    if not truth or found is None:
        return ""
    items = []
    for field, wanted in truth.items():
        if wanted is None:
            continue
        got = found.get(field)
        right = got == wanted
        word = ("camera " if field == "camera" else "") + (wanted if right else f"{got or 'nothing'}, not {wanted}")
        sign = "&#10003;" if right else "&#10007;"
        hint = f"{field}: asked {wanted}, read {got}"
        items.append(f'<li class="{"good" if right else "bad"}" title="{text(hint)}">{sign} {text(word)}</li>')
    return f'<ul class="chips">{"".join(items)}</ul>'


def evenly(items: Sequence | np.ndarray, count: int) -> list:
    """Picks at most so many items, evenly spaced, the first and the last among them."""
    if not len(items):
        return []
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]
