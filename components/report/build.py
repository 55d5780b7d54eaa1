"""Writes the run's report.html: one file with everything in it, that needs no network and no script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.media.write import replacing
from components.report import judged, sections, spent
from components.report.data import ReportData
from components.report.page import page, text

NAME = "report.html"
ORDER: dict[str, tuple[str, Callable[[ReportData], str]]] = {  # id of the section -> its name in the navigation, and who writes it
    "figures": ("Figures", sections.figures),
    "samples": ("Generated videos", judged.samples),
    "following": ("Following", judged.following),
    "consistency": ("Consistency", judged.consistency),
    "stages": ("Stages", sections.stages),
    "spent": ("Cost", spent.spent),
    "footage": ("Footage", sections.footage),
    "captions": ("Captions", sections.captions),
    "reconstructions": ("Reconstructions", sections.reconstructions),
    "training": ("Training", sections.curves),
    "lineage": ("Lineage", sections.lineage),
    "next": ("Next", sections.next_steps),
}


def build(data: ReportData, folder: Path) -> Path:
    """Writes the report into a folder and answers its path; what the data lacks is left out."""
    bodies = {key: write(data) for key, (_, write) in ORDER.items()}
    links = "".join(f'<a href="#{key}">{text(ORDER[key][0])}</a>' for key, body in bodies.items() if body)
    navigation = f"<nav>{links}</nav>" if links else ""
    body = "\n".join([sections.header(data), navigation, *filter(None, bodies.values())])
    path = Path(folder) / NAME
    with replacing(path) as temporary:
        Path(temporary).write_text(page(f"Kinora: {data.project}", body), encoding="utf-8")
    return path
