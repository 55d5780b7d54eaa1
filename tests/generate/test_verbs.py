"""Each verb beside what the VAE, the samplers and the seed say it must be."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.diffusion.samplers import SAMPLERS
from components.generate import verbs, windows
from components.generate.arrangement import key_frame
from components.generate.conditioning import Guidance, encode_prompts, in_whole_tokens, told_velocity
from components.generate.generator import Generator
from components.generate.sampling import Sampling
from components.models.dit import DiT
from components.world.render import render_clips
from tests.generate import test_generator as parts
from tests.generate.test_generator import CAPTIONS, FPS, folder, generator  # noqa: F401  (small untrained parts)

SIZE = (32, 32)


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    """Two films of 14 frames, uint8 (2, 14, 32, 32, 3)."""
    return render_clips("demo", 2, num_frames=14, height=32, width=32, seed=1)[0]


def sampling(generator: Generator, count: int = 2, **settings: object) -> Sampling:  # noqa: F811
    return generator.sampling(CAPTIONS[:1] * count, [1, 2][:count], **{"num_inference_steps": 2, **settings})


def through_the_vae(generator: Generator, frames: np.ndarray) -> np.ndarray:  # noqa: F811
    using = sampling(generator)
    return np.concatenate(list(using.decoded(using.encoded(frames))), axis=1)


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_kept_latents_come_out_of_every_sampler_as_they_went_in(generator: Generator, sampler: str) -> None:  # noqa: F811
    using = sampling(generator, sampler=sampler, num_inference_steps=4, guidance_scale=3.0, guidance_rescale=0.5)
    clean, kept = torch.randn(2, 16, 3, 4, 4), torch.tensor([False, True, False])
    made = using.latents((16, 3, 4, 4), clean, kept)
    assert torch.equal(made[:, :, 1], clean[:, :, 1])
    assert not torch.isclose(made[:, :, ::2], clean[:, :, ::2]).any(dim=1).all()


def test_kept_tokens_are_told_as_the_clip_s_own_and_the_others_at_t(generator: Generator) -> None:  # noqa: F811
    embeds, mask = encode_prompts(generator.text_encoder, [*CAPTIONS, ""])
    noisy, t, kept = torch.randn(2, 16, 3, 4, 4), torch.tensor(0.7), torch.tensor([True, False, False])
    times = torch.tensor([0.0, 0.7, 0.7]).repeat_interleave(4).expand(2, -1)  # 2 x 2 tokens a frame
    expected = generator.model(noisy, times, embeds[:2], mask[:2], FPS)
    found = told_velocity(generator.model, embeds, mask, Guidance(1.0), FPS, kept)(noisy, t)
    assert torch.allclose(found[:, :, 1:], expected[:, :, 1:], atol=1e-5)
    assert not found[:, :, 0].any()


def test_a_frame_is_let_go_where_its_token_holds_another_that_is_not_kept() -> None:
    kept = torch.tensor([True, True, False, True, True])
    assert in_whole_tokens(kept, 2).tolist() == [True, True, False, False, True]
    assert in_whole_tokens(kept, 1).tolist() == kept.tolist()


def test_an_extended_video_is_the_video_and_goes_on(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    film = verbs.extended(sampling(generator), films, 9, 10, paste=False)
    made = film.whole()
    assert made.shape == (2, 24, 32, 32, 3)
    assert film.num_frames == 24
    assert film.given.tolist() == [True] * 14 + [False] * 10
    assert np.array_equal(made[:, :9], films[:, :9])
    assert apart(made[:, 9:14], through_the_vae(generator, films[:, 9:])) <= 1  # 1 + 4 frames are kept


def test_what_is_added_does_not_depend_on_how_much_more_is_asked_for(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    short, long = (verbs.extended(sampling(generator), films, 9, added).whole() for added in (3, 9))
    assert np.array_equal(short, long[:, :17])


def test_a_later_window_keeps_the_latents_of_the_one_before(
    generator: Generator,  # noqa: F811
    films: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes, using = [], sampling(generator)

    def latents(shape: tuple[int, ...], clean: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        passes.append((clean, kept, Sampling.latents(using, shape, clean, kept)))
        return passes[-1][-1]

    monkeypatch.setattr(using, "latents", latents)
    made = verbs.extended(using, films, 9, 8, paste=False).whole()
    (_, _, first), (clean, kept, _) = passes
    assert kept.tolist() == [True, True, False]
    assert torch.equal(clean[:, :, 1], first[:, :, 2])
    assert torch.equal(clean[:, :, 0], using.encoded(made[:, 13:14])[:, :, 0])  # the frame before those of the first new latent


def test_what_leads_to_a_video_comes_before_it(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    film = verbs.led_to(sampling(generator), films, 9, 7, paste=False)
    made = film.whole()
    assert made.shape == (2, 21, 32, 32, 3)
    assert film.given.tolist() == [False] * 7 + [True] * 14
    assert np.array_equal(made[:, 11:], films[:, 4:])
    held = np.concatenate([np.repeat(films[:, :1], 5, axis=1), films[:, :4]], axis=1)
    assert apart(made[:, 7:11], through_the_vae(generator, held)[:, 5:]) <= 1
    once = verbs.led_to(sampling(generator), films, 9, 5, paste=False).whole()
    assert np.array_equal(once, made[:, 2:])


def test_joined_videos_stand_around_what_is_new(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    other = films[::-1, :6]
    film = verbs.joined(sampling(generator), films, other, 9)
    made = film.whole()
    assert film.given.tolist() == [True] * 14 + [False] * 4 + [True] * 6
    assert np.array_equal(made[:, :13], films[:, :13])
    assert np.array_equal(made[:, 22:], other[:, 4:])


def test_a_loop_leads_from_the_end_to_the_beginning(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    made = verbs.looped(sampling(generator), verbs.of_video(films), 9, paste=False).whole()
    bridge = verbs.joined(sampling(generator), films, films, 9, paste=False).whole()
    assert made.shape == (2, 18, 32, 32, 3)
    assert np.array_equal(made[:, 4:14], bridge[:, 4:14])
    assert np.array_equal(made[:, 15:17], bridge[:, 15:17])  # between the new frames that are eased into the video
    assert np.array_equal(made[:, :4], bridge[:, 18:22])
    at = np.concatenate([made[:, -2:], made[:, :2]], axis=1).astype(float)
    before, step, after = np.sqrt(np.square(np.diff(at, axis=1)).mean(axis=(2, 3, 4))).T
    assert (step <= np.maximum(before, after) + 0.5).all()


def test_a_loop_of_text_begins_with_the_clip_of_that_text(generator: Generator) -> None:  # noqa: F811
    clip = verbs.clip(sampling(generator), SIZE, 9).whole()
    using = sampling(generator)
    made = verbs.looped(using, verbs.clip(using, SIZE, 9), 9).whole()
    assert made.shape == (2, 13, 32, 32, 3)
    assert np.array_equal(made[:, 4:8], clip[:, 4:8])


def test_an_image_is_the_first_frame_and_a_key_frame_its_group(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    pieces = [(0, films[:, :1]), key_frame(0.8, films[:, 9], 8, 4)]
    made = verbs.clip(sampling(generator), SIZE, 9, pieces, paste=False).whole()
    assert pieces[1][0] == 5  # 0.8 s is frame 6
    between = np.stack([films[:, 0] + np.rint((films[:, 9].astype(float) - films[:, 0]) * k / 5) for k in range(1, 5)], axis=1)
    whole = np.concatenate([films[:, :1], between.astype(np.uint8), np.repeat(films[:, 9:10], 4, axis=1)], axis=1)
    expected = through_the_vae(generator, whole)
    assert apart(made[:, 0], expected[:, 0]) <= 1
    assert apart(made[:, 5:], expected[:, 5:]) <= 2  # the filling is rounded to whole levels


def test_an_edit_of_full_strength_is_what_the_text_makes_and_a_weak_one_the_video(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    made = verbs.edited(sampling(generator), films[:, :9], 9, 1.0).whole()
    assert np.array_equal(made, verbs.clip(sampling(generator), SIZE, 9).whole())
    weak = verbs.edited(sampling(generator), films[:, :9], 9, 1e-6).whole()
    assert apart(weak, through_the_vae(generator, films[:, :9])) <= 1


def test_an_edit_of_a_longer_video_is_as_long_as_it_is(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    made = verbs.edited(sampling(generator), films, 9, 0.5)
    assert made.whole().shape == films.shape
    short = verbs.edited(sampling(generator), films[:, :9], 9, 0.5).whole()
    assert np.array_equal(verbs.edited(sampling(generator), films, 9, 0.5).whole()[:, :9], short)


def test_a_picture_of_one_frame_can_be_edited(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    assert verbs.edited(sampling(generator), films[:, :1], 1, 0.5).whole().shape == (2, 1, 32, 32, 3)


def test_every_window_s_steps_are_counted(generator: Generator, films: np.ndarray) -> None:  # noqa: F811
    told: list[tuple[int, int, str]] = []
    using = generator.sampling(CAPTIONS, [1, 2], lambda *line: told.append(line), num_inference_steps=2)
    verbs.extended(using, films, 9, 9).whole()
    assert told == [(step, 6, "steps") for step in range(1, 7)]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda using, film: verbs.extended(using, film[:, :4], 9), "has 4 frames .* to go on from it the model needs 5; hint"),
        (lambda using, film: verbs.led_to(using, film[:, :3], 9), "to lead to it the model needs 4"),
        (lambda using, film: verbs.joined(using, film, film[:, :2], 9), "to lead to it the model needs 4"),
        (lambda using, film: verbs.joined(using, film, film, 9, 5), "a multiple of 4 frames, at most 4, not 5; hint: `--num-frames 4`"),
        (lambda using, film: verbs.joined(using, film, film, 9, 8), "at most 4, not 8"),
        (lambda using, film: verbs.joined(using, film, film, 5), "have no room between two videos; hint: one trained on at least 9"),
        (lambda using, film: verbs.edited(using, film[:, :8], 9, 0.5), "to draw it anew the model needs 9"),
        (lambda using, film: verbs.edited(using, film, 9, 1.5), "`--strength` is above 0 and at most 1, not 1.5"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is(generator: Generator, films: np.ndarray, ask, message: str) -> None:  # type: ignore[no-untyped-def] # noqa: F811
    with pytest.raises(ValueError, match=message):
        ask(sampling(generator), films)


@pytest.mark.parametrize(
    ("window", "shares"),
    [
        (windows.window_behind(9, 4), (2, 1, 0)),
        (windows.window_behind(5, 4), (1, 1, 0)),
        (windows.window_behind(81, 4), (7, 14, 0)),
        (windows.window_ahead(9, 4), (0, 2, 1)),
        (windows.window_between(9, 4), (1, 1, 1)),
        (windows.window_between(81, 4), (7, 7, 7)),
        (windows.window_between(81, 4, 19), (1, 19, 1)),
        (windows.window_behind(37, 4, 2), (2, 8, 0)),
        (windows.window_behind(13, 4, 3), (3, 1, 0)),
        (windows.window_ahead(37, 4, 2), (0, 8, 2)),
        (windows.window_ahead(33, 4, 2), (0, 6, 3)),
        (windows.window_ahead(13, 4, 2), (0, 2, 2)),
        (windows.window_between(17, 4, token=2), (2, 2, 1)),
        (windows.window_between(37, 4, token=2), (4, 2, 4)),
    ],
)
def test_a_window_is_shared_between_what_is_kept_and_what_is_new(window: windows.Window, shares: tuple[int, int, int]) -> None:
    assert (window.before, window.new, window.after) == shares
    assert window.frames_before + window.frames_new + window.frames_after == window.frames


@pytest.fixture(scope="module")
def two_deep(generator: Generator) -> Generator:  # noqa: F811
    """The same, whose tokens hold two frames of latents."""
    torch.manual_seed(0)
    model = DiT(replace(parts.SIZE, patch_size=(2, 2, 2)), 16, generator.text_encoder.width)
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return replace(generator, model=model.eval())


@pytest.fixture(scope="module")
def long_films() -> np.ndarray:
    """Two films of 60 frames, uint8 (2, 60, 32, 32, 3)."""
    return render_clips("demo", 2, num_frames=60, height=32, width=32, seed=1)[0]


LONG = 33  # frames of a window: nine latents, of which a third is no whole number of tokens of two


@pytest.mark.parametrize(
    ("make", "windows", "kept"),
    [
        (lambda using, films: verbs.extended(using, films, LONG, 60, paste=False), 3, {(True,) * 2 + (False,) * 7}),
        (lambda using, films: verbs.led_to(using, films, 37, 60, paste=False), 3, {(False,) * 8 + (True,) * 2}),
        (lambda using, films: verbs.joined(using, films, films[::-1], LONG, paste=False), 1, {(True,) * 4 + (False,) * 2 + (True,) * 3}),
        (lambda using, films: verbs.looped(using, verbs.of_video(films), LONG, paste=False), 1, {(True,) * 4 + (False,) * 2 + (True,) * 3}),
        (lambda using, films: verbs.edited(using, films, LONG, 0.8), 2, {None, (True,) * 2 + (False,) * 7}),
    ],
    ids=["extend", "backward", "connect", "loop", "edit"],
)
def test_a_model_of_deep_tokens_leaves_all_that_a_window_keeps_as_it_is(
    two_deep: Generator,
    long_films: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Sampling, np.ndarray], verbs.Film],
    windows: int,
    kept: set[tuple[bool, ...] | None],
) -> None:
    asked, using = [], sampling(two_deep)

    def latents(shape: tuple[int, ...], clean: torch.Tensor, wanted: torch.Tensor | None = None, strength: float = 1.0) -> torch.Tensor:
        made = Sampling.latents(using, shape, clean, wanted, strength)
        asked.append(None if wanted is None else tuple(wanted.tolist()))
        if wanted is not None:
            assert torch.equal(made[:, :, wanted], clean[:, :, wanted])
        return made

    monkeypatch.setattr(using, "latents", latents)
    film = make(using, long_films)
    assert film.whole().shape[1] == film.num_frames
    assert len(asked) == windows
    assert set(asked) == kept


def test_kept_frames_of_a_model_of_deep_tokens_are_those_that_were_given(two_deep: Generator, long_films: np.ndarray) -> None:
    start, end = long_films[:, :20], long_films[:, 20:40]
    further = verbs.extended(sampling(two_deep), start, LONG, 10, paste=False).whole()
    assert np.array_equal(further[:, :15], start[:, :15])
    assert apart(further[:, 15:20], through_the_vae(two_deep, start[:, 15:])) <= 1  # 1 + 4 frames
    joined = verbs.joined(sampling(two_deep), start, end, LONG, paste=False).whole()
    assert np.array_equal(joined[:, :7], start[:, :7])
    assert apart(joined[:, 7:20], through_the_vae(two_deep, start[:, 7:])) <= 1  # 1 + 12 frames
    assert np.array_equal(joined[:, 28 + 12 :], end[:, 12:])
    before = verbs.led_to(sampling(two_deep), end, LONG, 4, paste=False).whole()
    held = np.concatenate([np.repeat(end[:, :1], 21, axis=1), end[:, :12]], axis=1)
    assert apart(before[:, 4:16], through_the_vae(two_deep, held)[:, 21:]) <= 2  # decoded behind frames that were generated


def test_a_later_window_of_deep_tokens_goes_on_from_frames_that_were_shown(
    two_deep: Generator, long_films: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, using = [], sampling(two_deep)

    def latents(shape: tuple[int, ...], clean: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        passes.append(Sampling.latents(using, shape, clean, kept))
        return passes[-1]

    monkeypatch.setattr(using, "latents", latents)
    made = verbs.extended(using, long_films[:, :20], LONG, 56, paste=False).whole()
    first, second = passes
    assert torch.equal(second[:, :, 1], first[:, :, -1])
    assert torch.equal(second[:, :, 0], using.encoded(made[:, 43:44])[:, :, 0])  # five frames before those of the second window


def test_what_deep_tokens_cannot_keep_is_said(two_deep: Generator, long_films: np.ndarray) -> None:
    said = "tokens hold 2 latent frames, 8 frames of film, and what is given does not fill them"
    with pytest.raises(ValueError, match=said):
        verbs.clip(sampling(two_deep), SIZE, LONG, [(0, long_films[:, :9])])  # three latents, of which the third stands alone
    with pytest.raises(ValueError, match=said):
        verbs.extended(sampling(two_deep), long_films, 5)
    with pytest.raises(ValueError, match="no room between two videos; hint: one trained on at least 17 frames"):
        verbs.joined(sampling(two_deep), long_films, long_films, 13)
    with pytest.raises(ValueError, match="a multiple of 8 frames, at most 24, not 12; hint: `--num-frames 16`"):
        verbs.joined(sampling(two_deep), long_films, long_films, LONG, 12)
