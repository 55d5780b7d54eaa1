"""The planner of shapes: few, of the footage's own aspects and lengths, and every pixel that is lost is accounted for."""

from itertools import combinations

import numpy as np
import pytest

from components.config import load_config
from components.ingest.shapes import (
    LARGER,
    Piece,
    Plan,
    Shape,
    Shapes,
    account,
    exchanged,
    extended,
    greedy,
    one_shape,
    plan_shapes,
    possible_shapes,
    spread,
)

CLIP = load_config().clip.model_copy(
    update={"num_frames": 33, "height": 128, "width": 128, "fps": 8, "max_shapes": 6, "max_clips_per_scene": 100}
)


def footage(count: int = 60, seed: int = 0) -> list[Piece]:
    random = np.random.default_rng(seed)
    sides = [(72, 128), (128, 72), (96, 128), (240, 427), (64, 64), (20, 40)]
    pieces = [Piece(*sides[random.integers(len(sides))], int(random.integers(3, 200))) for _ in range(count)]
    return [*pieces, Piece(96, 128, 1, still=True), Piece(480, 640, 1, still=True)]


@pytest.mark.parametrize("most", [2, 4, 6, 12])
def test_planned_shapes_keep_the_limits_and_every_share_of_the_footage_is_accounted_for(most):
    plan = plan_shapes(footage(), CLIP.model_copy(update={"max_shapes": most}), 0.5)
    assert 1 <= len(plan.shapes.shapes) <= most
    for shape in plan.shapes.shapes:
        assert (shape.num_frames - 1) % 4 == shape.height % 16 == shape.width % 16 == 0
        assert shape.num_frames <= 33
        assert shape.height * shape.width <= 128 * 128
    assert plan.kept + sum(plan.discarded.values()) == pytest.approx(1.0)
    assert plan.used <= plan.pieces == 62
    assert Plan.of(plan.as_dict()) == plan


def test_more_shapes_keep_more():
    kept = [plan_shapes(footage(), CLIP.model_copy(update={"max_shapes": most}), 0.5).kept for most in (2, 4, 8, 16)]
    assert kept == sorted(kept)
    assert kept[-1] > kept[0] + 0.05


def test_footage_of_few_aspects_and_lengths_is_kept_whole():
    pieces = [Piece(96, 160, 33)] * 5 + [Piece(192, 320, 66)] * 3 + [Piece(128, 128, 17)] * 4 + [Piece(64, 256, 1, still=True)]
    plan = plan_shapes(pieces, CLIP, 0.5)
    assert plan.shapes.shapes == (Shape(33, 96, 160), Shape(17, 128, 128), Shape(1, 64, 256))
    assert (plan.kept, plan.used, plan.clips) == (pytest.approx(1.0), 13, (5 + 6, 4, 1))


def test_greedy_choice_and_exchange_reach_the_best_of_all_sets_or_nearly():
    random = np.random.default_rng(3)
    found, best = [], []
    for _ in range(20):
        worth, weights = random.random((12, 9)) ** 3, random.random(12)
        places = exchanged(worth, weights, greedy(worth, weights, 3))
        found.append(weights @ worth[:, places].max(axis=1))
        best.append(max(weights @ worth[:, list(chosen)].max(axis=1) for chosen in combinations(range(9), 3)))
    assert all(a <= b + 1e-9 for a, b in zip(found, best, strict=True))
    assert np.mean(np.divide(found, best)) > 0.99
    assert min(np.divide(found, best)) > 0.95


def test_a_scene_takes_the_shape_that_keeps_most_of_it_and_its_rest_becomes_a_shorter_clip():
    shapes = Shapes((Shape(33, 96, 128), Shape(17, 96, 128), Shape(5, 96, 128), Shape(33, 128, 96)), 10)
    cut = shapes.cut(Piece(96, 128, 60))
    assert [shape.num_frames for _, shape in cut] == [33, 17, 5, 5]
    ends = [at + shape.num_frames for at, shape in cut]
    assert all(end <= at for end, (at, _) in zip(ends, cut[1:], strict=False))
    assert ends[-1] <= 60
    assert [shape.sides for _, shape in shapes.cut(Piece(1280, 960, 40))] == [(128, 96)]
    assert shapes.cut(Piece(96, 128, 4)) == []
    assert shapes.cut(Piece(95, 127, 40)) == []  # nothing is enlarged
    assert shapes.best(Piece(96, 128, 1, still=True)) is None


def test_what_is_lost_has_the_reason_that_it_was_lost_for():
    shapes = Shapes((Shape(9, 64, 64),), 4)

    def lost(piece: Piece, min_scene_seconds: float = 0.5) -> Plan:
        return account([piece], shapes, CLIP, min_scene_seconds)

    assert (lost(Piece(64, 128, 9)).kept, lost(Piece(64, 128, 9)).cropped) == (0.5, 0.5)
    assert lost(Piece(64, 64, 12)).cut_off == 0.25
    assert lost(Piece(64, 64, 90)).left_out == pytest.approx(0.6)
    assert lost(Piece(64, 64, 8)).too_short == 1.0
    assert lost(Piece(64, 64, 12), min_scene_seconds=2.0).too_short == 1.0
    assert lost(Piece(48, 64, 90)).too_small == 1.0
    assert lost(Piece(64, 64, 1, still=True)).unplanned == 1.0


def test_one_shape_is_that_of_the_settings_whatever_the_footage():
    one = CLIP.model_copy(update={"max_shapes": 1})
    plan = plan_shapes(footage(), one, 0.5)
    assert plan.shapes == one_shape(one)
    assert set(plan.shapes.shapes) == {Shape(33, 128, 128), Shape(1, 128, 128)}
    assert plan.too_small == 0.0  # smaller footage is enlarged
    assert plan.shapes.cut(Piece(20, 40, 100)) == [(at, Shape(33, 128, 128)) for at in (0, 33, 67)]


def test_images_have_a_shape_of_their_own_however_few_they_are():
    pieces = [*footage(200), Piece(480, 640, 1, still=True)]
    for most in (2, 3, 5):
        shapes = plan_shapes(pieces, CLIP.model_copy(update={"max_shapes": most}), 0.5).shapes.shapes
        assert len(shapes) <= most
        assert sum(shape.num_frames == 1 for shape in shapes) == 1


def test_films_have_a_shape_of_their_own_however_few_they_are():
    photos = [Piece(*sides, 1, still=True) for sides in ((3000, 4000), (4000, 3000), (3000, 3000)) for _ in range(170)]
    for most in (2, 3, 4):
        plan = plan_shapes([*photos, Piece(96, 128, 40)], CLIP.model_copy(update={"max_shapes": most}), 0.5)
        assert len(plan.shapes.shapes) <= most
        assert [shape.sides for shape in plan.shapes.of_kind(still=False)] == [(96, 128)]
        assert plan.unplanned == 0.0


def test_scenes_that_are_to_be_longer_than_any_clip_are_cut_to_the_longest():
    films = [Piece(96, 128, 40), Piece(96, 128, 33)]
    for pictures in ([], [Piece(480, 640, 1, still=True)]):
        plan = plan_shapes([*films, *pictures], CLIP, 5.0)
        assert plan.shapes.of_kind(still=False) == [Shape(33, 96, 128)]
        assert plan.used == 1 + len(pictures)
        assert plan.too_short == pytest.approx(films[1].volume / sum(piece.volume for piece in [*films, *pictures]))
    with pytest.raises(ValueError, match=r"no scene is as long as `scenes\.min_scene_seconds` of 6; hint: a lower one"):
        plan_shapes(films, CLIP, 6.0)


def test_a_plan_is_extended_for_a_kind_that_it_has_no_shape_for_and_is_kept_else():
    films, pictures = [Piece(96, 128, 40)] * 3 + [Piece(128, 96, 33)], [Piece(480, 640, 1, still=True), Piece(640, 480, 1, still=True)]
    for first, later in ((films, pictures), (pictures, films)):
        for most, added in ((2, 1), (3, 1), (6, 2)):
            clip = CLIP.model_copy(update={"max_shapes": most})
            before = plan_shapes(first, clip, 0.5)
            after = extended(before, later, clip, 0.5)
            assert set(before.shapes.shapes) < set(after.shapes.shapes)
            assert len(after.shapes.of_kind(still=later is pictures)) == added
            assert [after.shapes.cut(piece) for piece in first] == [before.shapes.cut(piece) for piece in first]
            whole = account([*first, *later], after.shapes, clip, 0.5)
            assert (after.clips, after.pieces, after.used, after.volume) == (whole.clips, 6, whole.used, whole.volume)
            assert (after.kept, *after.discarded.values()) == pytest.approx((whole.kept, *whole.discarded.values()))
    assert extended(before, [Piece(8, 8, 1, still=True)], clip, 0.5) == before


def test_where_few_clips_are_taken_of_a_scene_they_are_long_ones():
    long = Shape(33, 96, 112), Shape(5, 96, 128)
    assert Shapes(long, 1000).best(Piece(96, 128, 1000)) == long[0]
    assert Shapes(long, 1000).best(Piece(96, 128, 20)) == long[1]
    assert Shapes((Shape(33, 48, 128), long[1]), 1000).best(Piece(96, 128, 330)) == long[1]
    assert Shapes((Shape(33, 48, 128), long[1]), 4).best(Piece(96, 128, 330)) == Shape(33, 48, 128)


def test_of_two_shapes_that_keep_about_as_much_the_larger_is_taken():
    small, large = Shape(9, 48, 64), Shape(17, 96, 128)
    assert (small.volume / large.volume) ** LARGER < 1 - 1 / 18
    assert Shapes((large, small), 4).best(Piece(96, 128, 18)) == large


def test_footage_that_is_too_small_or_too_short_for_any_shape_is_refused():
    for piece in (Piece(12, 100, 50), Piece(100, 100, 4)):
        with pytest.raises(ValueError, match="as large and as long as 16 x 16 pixels and 5 frames"):
            plan_shapes([piece], CLIP, 0.5)


def test_no_possible_shape_is_longer_larger_or_shorter_than_allowed():
    found = possible_shapes(footage(), CLIP, 1.0)
    assert {shape.num_frames for shape in found} == {1, 9, 13, 17, 21, 25, 29, 33}
    assert max(shape.height * shape.width for shape in found) <= 128 * 128


@pytest.mark.parametrize(
    ("available", "lengths", "most", "expected"),
    [
        (9, [9], 4, [(0, 9)]),
        (12, [9], 4, [(2, 9)]),
        (8, [9], 4, []),
        (18, [9], 4, [(0, 9), (9, 9)]),
        (30, [9], 1, [(10, 9)]),
        (103, [9], 3, [(19, 9), (47, 9), (75, 9)]),
        (16, [9, 5], 4, [(1, 9), (10, 5)]),
        (5, [9, 5], 4, [(0, 5)]),
        (40, [9, 5], 2, [(7, 9), (24, 9)]),
    ],
)
def test_clips_are_centred_and_spread_evenly(available, lengths, most, expected):
    assert spread(available, lengths, most) == expected
