"""Films: their sidecars tell the truth, the same recipe is the same bytes, and a broken run goes on where it stopped."""

import itertools
import json

import av
import numpy as np
import pytest

from components.world.films import render_film, render_films
from components.world.vocabulary import held_out


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


@pytest.mark.parametrize("preset", ["demo", "rich"])
def test_a_film_is_its_sidecars_scenes_and_transitions_frame_by_frame(tmp_path, preset):
    sidecar = render_film(tmp_path / "film.mp4", preset, 5, scenes=9)
    assert json.loads((tmp_path / "film.json").read_text()) == sidecar
    spans = [(scene["first_frame"], scene["last_frame"]) for scene in sidecar["scenes"]]
    spans += [(gap["first"], gap["last"]) for gap in sidecar["gradual"]]
    told = sorted(frame for first, last in spans for frame in range(first, last + 1))
    assert told == list(range(len(decode(tmp_path / "film.mp4"))))
    assert len(sidecar["scenes"]) == 9
    assert len(sidecar["cuts"]) + len(sidecar["gradual"]) == 8
    assert set(sidecar["cuts"]) <= {scene["first_frame"] for scene in sidecar["scenes"]}


def test_frames_change_more_at_every_hard_cut_than_anywhere_inside_a_scene(tmp_path):
    at_cuts, inside = [], []
    for seed in range(4):
        path = tmp_path / f"{seed}.mp4"
        sidecar = render_film(path, "demo", seed)
        change = np.abs(np.diff(decode(path), axis=0)).mean((1, 2, 3))
        at_cuts += [change[cut - 1] for cut in sidecar["cuts"]]
        for scene in sidecar["scenes"]:
            inside += list(change[scene["first_frame"] : scene["last_frame"]])
    assert len(at_cuts) > 20
    assert min(at_cuts) > 1.2 * max(inside)


def test_neighbouring_scenes_differ_in_colour(tmp_path):
    for preset in ("demo", "rich"):
        sidecar = render_film(tmp_path / "film.mp4", preset, 3, scenes=24, height=32, width=32)
        colours = [scene["fields"]["colour"] for scene in sidecar["scenes"]]
        assert all(a != b for a, b in itertools.pairwise(colours))


def test_transitions_are_dissolves_and_fades_through_black(tmp_path):
    sidecar = render_film(tmp_path / "film.mp4", "demo", 1, scenes=16, gradual_share=1.0)
    light = decode(tmp_path / "film.mp4").mean((1, 2, 3))
    assert {gap["type"] for gap in sidecar["gradual"]} == {"dissolve", "fade"}
    assert not sidecar["cuts"]
    for gap in sidecar["gradual"]:
        darkest, around = light[gap["first"] : gap["last"] + 1].min(), min(light[gap["first"] - 1], light[gap["last"] + 1])
        assert darkest < 0.6 * around if gap["type"] == "fade" else darkest > 0.8 * around


def test_the_same_recipe_is_the_same_film_by_one_worker_or_two(tmp_path):
    choices = {"seed": 9, "unseen_films": 1, "scenes": 3, "height": 32, "width": 32}
    alone = render_films(tmp_path / "one", "demo", 3, workers=1, **choices)
    together = render_films(tmp_path / "two", "demo", 3, workers=2, **choices)
    assert [path.name for path in alone] == ["film_0000.mp4", "film_0001.mp4", "film_0002.mp4", "unseen_0000.mp4"]
    for one, two in zip(alone, together, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.with_suffix(".json").read_bytes() == two.with_suffix(".json").read_bytes()
    assert len({path.read_bytes() for path in alone}) == 4


def test_unseen_films_hold_only_held_out_triples_and_the_others_none(tmp_path):
    paths = render_films(tmp_path, "demo", 3, seed=2, unseen_films=3, workers=1, height=32, width=32)
    for path in paths:
        sidecar = json.loads(path.with_suffix(".json").read_text())
        triples = {tuple(scene["fields"][field] for field in ("colour", "shape", "motion")) for scene in sidecar["scenes"]}
        assert sidecar["held_out"] == path.name.startswith("unseen")
        assert triples <= held_out("demo") if sidecar["held_out"] else not triples & held_out("demo")


def test_a_rerun_makes_only_what_is_missing_or_of_another_recipe(tmp_path):
    choices = {"workers": 1, "scenes": 2, "height": 32, "width": 32}
    first, second, third = render_films(tmp_path, "demo", 3, seed=1, **choices)
    whole = {path: path.read_bytes() for path in (first, second, third)}
    stamps = {path: path.stat().st_mtime_ns for path in whole}
    second.unlink()  # killed before the film was in place
    third.with_suffix(".json").write_text("{")
    told = []
    render_films(tmp_path, "demo", 3, seed=1, on_film=lambda done, total: told.append((done, total)), **choices)
    assert {path: path.read_bytes() for path in whole} == whole
    assert told == [(2, 3), (3, 3)]
    assert first.stat().st_mtime_ns == stamps[first]
    render_films(tmp_path, "demo", 3, seed=2, **choices)
    assert first.read_bytes() != whole[first]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 3 + [".mp4"] * 3


def test_a_film_that_cannot_be_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="even sides, not 33x32"):
        render_film(tmp_path / "film.mp4", "demo", 0, height=33, width=32)
