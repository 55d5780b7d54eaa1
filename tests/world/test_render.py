"""The renderer: the same numbers draw the same frames, and what is drawn is where the numbers say."""

import numpy as np
import pytest

from components.world.render import render_clips, render_scene
from components.world.vocabulary import DIRECTIONS, PALETTE, Scene, Thing, caption, held_out, parse


def white(frames):
    """How much of each pixel a white object covers, over a ground of level 52 without relief."""
    return (frames.min(-1).astype(float) - 52) / (240 - 52)


def centre(mask):
    rows, cols = np.indices(mask.shape)
    return np.array([(mask * cols).sum(), (mask * rows).sum()]) / mask.sum()


@pytest.mark.parametrize("preset", ["demo", "rich"])
def test_the_same_seed_draws_the_same_clips(preset):
    frames, scenes = render_clips(preset, 6, seed=11)
    again, same = render_clips(preset, 6, seed=11)
    other, _ = render_clips(preset, 6, seed=12)
    assert frames.dtype == np.uint8
    assert frames.shape == (6, 9, 64, 64, 3)
    assert scenes == same
    assert np.array_equal(frames, again)
    assert not np.array_equal(frames, other)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (96, 128), (128, 96)])
def test_a_clip_of_any_size_shows_the_same_picture(height, width):
    thing = Thing("white", "circle", "left", radius=0.2, x=0.1, y=-0.05)
    frame = render_scene(Scene((thing,), "striped", "still", contrast=0), 1, height, width)[0]
    unit = min(height, width)
    mask = white(frame)
    assert mask.sum() == pytest.approx(np.pi * (0.2 * unit) ** 2, rel=0.03)
    assert centre(mask) == pytest.approx([width / 2 + 0.1 * unit - 0.5, height / 2 - 0.05 * unit - 0.5], abs=0.1)


def test_an_object_moves_by_its_velocity_less_the_cameras():
    thing = Thing("white", "square", "right", radius=0.2, vx=3 * 8 / 64)
    for camera, across in (("still", 3.0), ("pan-right", 2.0), ("pan-left", 4.0)):
        masks = white(render_scene(Scene((thing,), "dotted", camera, camera_rate=8 / 64, contrast=0), 5, 64, 64, 8))
        assert centre(masks[4]) - centre(masks[0]) == pytest.approx([4 * across, 0], abs=0.05)
        assert centre(masks[2]) == pytest.approx([31.5, 31.5], abs=0.05)


def test_a_pan_moves_the_ground_the_other_way_by_whole_pixels():
    scene = Scene((Thing("white", "square", "still", radius=0.01),), "striped", "pan-right", camera_rate=8 / 64)
    frames = render_scene(scene, 3, 64, 64, 8)[:, :16]
    assert np.abs(frames[1, :, :-1].astype(int) - frames[0, :, 1:]).max() <= 1


def test_a_demo_object_is_whole_in_every_frame_of_the_longest_scene():
    frames, scenes = render_clips("demo", 48, num_frames=14, seed=5)
    for clip, scene in zip(frames, scenes, strict=True):
        border = np.concatenate([clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1]], axis=1).astype(int)
        assert np.abs(border - PALETTE[scene.things[0].colour]).sum(-1).min() > 60
        assert scene.things[0].radius * 64 > 9


def test_demo_motion_on_screen_is_motion_in_the_world():
    _, scenes = render_clips("demo", 96, height=8, width=8, seed=2)
    for scene in scenes:
        thing, pan = scene.things[0], {"pan-left": -1, "pan-right": 1}.get(scene.camera, 0) * scene.camera_rate
        on_screen = np.array([thing.vx - pan, thing.vy])
        way = np.array(DIRECTIONS[thing.motion])
        assert on_screen @ way > 1.5 * abs(on_screen @ way[::-1])


def test_seen_clips_hold_no_held_out_triple_and_unseen_clips_hold_nothing_else():
    for preset in ("demo", "rich"):
        for allow in ("seen", "unseen"):
            _, scenes = render_clips(preset, 100, num_frames=1, height=8, width=8, seed=4, allow=allow)
            triples = {thing.triple for scene in scenes for thing in scene.things}
            assert triples <= held_out(preset) if allow == "unseen" else not triples & held_out(preset)


def test_the_caption_of_a_drawn_scene_says_its_fields():
    for preset in ("demo", "rich"):
        _, scenes = render_clips(preset, 200, num_frames=1, height=8, width=8, seed=6)
        for scene in scenes:
            assert parse(caption(scene)) == scene.fields


def test_a_tilt_is_never_drawn_over_stripes_that_cannot_show_it():
    _, scenes = render_clips("rich", 300, num_frames=1, height=8, width=8, seed=8)
    assert not any(scene.camera.startswith("tilt") and scene.background == "striped" for scene in scenes)
    assert {len(scene.things) for scene in scenes} == {1, 2}
    assert any(scene.occluder for scene in scenes)
    assert any(scene.parallax for scene in scenes)
