import re
from html.parser import HTMLParser

import numpy as np
import pytest

from components.media.read import decode_clip
from components.media.write import write_video
from components.report.build import NAME, build
from components.report.data import (
    Check,
    ClipExample,
    Curve,
    Figure,
    FunnelStep,
    Maker,
    Node,
    Reconstruction,
    ReportData,
    SampleVideo,
    StageRow,
    Verdict,
)

EVIL = "<script>alert('x')</script>\"><img src=x onerror=y>"
VOID = {"meta", "img", "br", "line", "circle", "rect", "polyline", "link", "input"}


class Page(HTMLParser):
    """Reads a page back: its tags, whether they nest, what it links to."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def clip(seed: int = 0, num_frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 16, 16, 3)).astype(np.uint8)


def share(value: float) -> dict:
    return {"value": value, "low": value - 0.1, "high": min(1.0, value + 0.1), "count": 8}


def full(word: str = "plain") -> ReportData:
    """Every field filled, with one word wherever a word may stand."""
    fields = {"colour": word, "shape": "ring"}
    means = {"motion": 0.3, "unexplained": 0.02}
    steady = {"score": share(0.8), "moving_share": share(0.9), "means": means, "num_clips": 8}
    group = {
        "fields": {"colour": share(0.9), "triple": share(0.5), "all": share(0.4)},
        "chance": {"colour": 0.2, "triple": 0.1, "all": 0.1},
        "shuffled": {"colour": 0.2, "triple": 0.1, "all": 0.1},
        "num_prompts": 4,
        "num_samples": 8,
    }
    evaluation = {
        "groups": {word: group},
        "following": share(0.8),
        "above_shuffled": share(0.5),
        "following_note": None,
        "ceiling": {"colour": share(0.97)},
        "temporal": steady,
        "real": steady,
        "ranking": {"freeze": {"share": 1.0, "num_clips": 8}},
        "real_ranking": {"freeze": {"share": None, "num_clips": 0}},
    }
    video = write_video(None, clip(), 8)
    return ReportData(
        project=word, subtitle=word, profile=word, made_at=word, notes=[word], total_seconds=61,
        verdicts=[Verdict(word, "promote", [word], [Check(word, True, word)], word), Verdict(word, "reject", [word])],
        figures=[Figure("a", word, 0.5, 0.4, unit="%", low=0.4, high=0.6, chance=0.2, ceiling=0.9, note=word), Figure("b", word, None)],
        stages=[StageRow(word, word, 3, word, word), StageRow(word, word, None, status="fresh")],
        funnel=[FunnelStep(word, 10), FunnelStep(word, 8, 2, word)],
        clips=[ClipExample(clip(), word, word, 8, fields, {"colour": "red", "shape": word}), ClipExample(clip(num_frames=1), word)],
        reconstructions=[Reconstruction(clip(), clip(1), 28.0)],
        curves=[Curve(word, {word: [(1, 10.0), (2, 0.1), (3, float("nan"))], "other": []}, word)],
        samples=[SampleVideo(word, video, group, 1, word, fields, {"colour": word, "shape": None}, 0.5, word) for group in ("seen", word)],
        evaluation=evaluation, champion_evaluation=evaluation, captions={"colour": share(0.9)},
        comparison={"following": {"value": 0.1, "low": 0.0, "high": 0.2, "pairs": 8}},
        lineage=[Maker(word, word, word, word, [word, "ab" * 32])],
        origin=[Node("a", 0, word, [word]), Node("b", 1, word, [word], ["a"], "good"), Node("c", 2, word, reads=["a", "b", "nobody"])],
        settings={word: {word: word}}, paths={word: word}, next_commands=[word],
    )  # fmt: skip


def test_a_full_report_is_one_well_formed_file_that_asks_for_nothing(tmp_path):
    path = build(full(), tmp_path)
    assert path == tmp_path / NAME
    page = Page(path.read_text())
    for tag, name, value in page.attributes:
        if name in ("src", "href", "data", "poster", "action"):
            assert value.startswith(("data:", "#")), (tag, name, value[:60])
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in path.read_text()
    assert "url(" not in path.read_text()


def test_every_link_of_the_navigation_leads_somewhere(tmp_path):
    page = Page(build(full(), tmp_path).read_text())
    places = {value for tag, name, value in page.attributes if name == "id"}
    links = {value[1:] for tag, name, value in page.attributes if name == "href"}
    assert links
    assert links <= places


def test_words_from_files_and_people_stay_words(tmp_path):
    source = build(full(EVIL), tmp_path).read_text()
    page = Page(source)
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name == "onerror"]
    assert "<script" not in source
    assert "&lt;script&gt;" in source


def test_videos_play_by_themselves_and_hold_the_frames(tmp_path):
    import base64

    data = full()
    source = build(data, tmp_path).read_text()
    page = Page(source)
    names = {name for tag, name, _ in page.attributes if tag == "video"}
    assert {"autoplay", "loop", "muted", "playsinline"} <= names
    films = re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", source)
    assert data.samples[0].video in [base64.b64decode(film) for film in films]
    assert all(decode_clip(base64.b64decode(film)).shape == (5, 16, 16, 3) for film in films)


def test_a_project_with_nothing_to_show_still_has_a_report(tmp_path):
    page = Page(build(ReportData("bare"), tmp_path).read_text())
    assert page.tags.count("section") == 0
    assert page.tags.count("h1") == 1


@pytest.mark.parametrize(
    "parts",
    [
        {"evaluation": {"groups": None, "following_note": "no reader", "temporal": full().evaluation["temporal"]}},
        {"samples": [SampleVideo("a dog", b"not a film")]},
        {"clips": [ClipExample(clip(num_frames=1), "")]},
        {"curves": [Curve("flat", {"loss": [(1, 2.0)]}), Curve("zero", {"loss": [(0, 0.0), (1, 0.0)]})]},
        {"funnel": [FunnelStep("nothing", 0)]},
    ],
)
def test_what_a_project_lacks_is_left_out(tmp_path, parts):
    Page(build(ReportData("partly", **parts), tmp_path).read_text())


def test_why_following_was_not_measured_is_said(tmp_path):
    data = ReportData("real", evaluation={"groups": None, "following_note": "no reader knows it", "temporal": None})
    assert "no reader knows it" in build(data, tmp_path).read_text()


def test_the_report_is_replaced_whole(tmp_path):
    build(ReportData("first"), tmp_path)
    build(ReportData("second"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert "second" in (tmp_path / NAME).read_text()
