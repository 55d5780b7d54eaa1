import numpy as np

from components.generate.arrangement import arrange, kept_latents, key_frame, pasted, shares


def flat(*levels: int) -> np.ndarray:
    """One film whose frames are of one level each, (1, T, 2, 2, 3)."""
    return np.broadcast_to(np.array(levels, np.uint8)[None, :, None, None, None], (1, len(levels), 2, 2, 3))


def test_what_is_not_given_fades_from_one_piece_to_the_next_and_is_held_at_the_ends() -> None:
    made = arrange(8, [(2, flat(10)), (6, flat(50))])
    assert made.frames[0, :, 0, 0, 0].tolist() == [10, 10, 10, 20, 30, 40, 50, 50]
    assert made.given.tolist() == [False, False, True, False, False, False, True, False]


def test_a_latent_is_kept_where_all_of_its_frames_are_given() -> None:
    given = np.array([True, True, True, True, True, False, True, True, True])
    assert kept_latents(given, 4).tolist() == [True, True, False]
    assert kept_latents(~given, 4).tolist() == [False, False, False]


def test_a_key_frame_stands_where_its_moment_is() -> None:
    picture = flat(7)[:, 0]
    for seconds, start, count in ((0.0, 0, 1), (0.05, 0, 1), (0.125, 1, 4), (0.5, 1, 4), (0.625, 5, 4), (1.0, 5, 4)):
        found, piece = key_frame(seconds, picture, 8, 4)
        assert (found, piece.shape) == (start, (1, count, 2, 2, 3))


def test_given_frames_fade_towards_generated_ones_beside_them() -> None:
    given = np.array([True, True, True, False, True, False, False, True, True, True])
    expected = [3 / 4, 2 / 4, 1 / 4, 0, 1 / 2, 0, 0, 1 / 4, 2 / 4, 3 / 4]
    np.testing.assert_allclose(shares(given), expected)
    assert shares(np.ones(3, bool)).tolist() == [1, 1, 1]
    assert pasted(flat(100, 100), flat(0, 0), np.array([0.75, 0.0]))[0, :, 0, 0, 0].tolist() == [75, 0]
