import numpy as np
import pytest
import torch

from components.openclip.mosaic import Mosaic, cells, frame_indices, picture, unweave, weave

NINE = Mosaic(frames=9, image_size=96, tile=8)


def test_frames_are_evenly_spaced_from_first_to_last():
    assert frame_indices(9, 9) == list(range(9))
    assert frame_indices(9, 4) == [0, 3, 5, 8]
    assert frame_indices(17, 9) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert frame_indices(9, 1) == [4]
    assert frame_indices(1, 9) == [0] * 9


def test_a_patch_holds_one_place_of_every_frame_in_reading_order():
    numbered = torch.arange(9).view(1, 9, 1, 1, 1).expand(1, 9, 3, 32, 32)
    woven = weave(numbered, NINE)
    patch = woven[0, 0, 24:48, 48:72]  # (24, 24), the second row and third column of patches
    for frame in range(9):
        row, column = divmod(frame, 3)
        assert (patch[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] == frame).all()


def test_a_frame_keeps_its_pixels_in_place():
    frames = torch.randint(0, 256, (2, 9, 3, 32, 32), dtype=torch.uint8)
    woven = weave(frames, NINE)
    assert torch.equal(woven[1, :, 24:32, 72:80], frames[1, 0, :, 8:16, 24:32])  # tile (1, 3) of the first frame


def test_a_mosaic_comes_apart_into_its_frames():
    frames = torch.randint(0, 256, (2, 9, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(unweave(weave(frames, NINE), NINE), frames)


def test_a_tile_as_large_as_the_cell_is_a_contact_sheet():
    sheet = weave(torch.arange(4).view(1, 4, 1, 1, 1).expand(1, 4, 3, 16, 16), Mosaic(frames=4, image_size=32, tile=16))
    assert [int(sheet[0, 0, y, x]) for y, x in ((0, 0), (0, 31), (31, 0), (31, 31))] == [0, 1, 2, 3]


def test_any_clip_becomes_square_cells():
    clip = np.random.default_rng(0).integers(0, 256, (17, 48, 80, 3), dtype=np.uint8)
    assert cells(clip, NINE).shape == (9, 3, 32, 32)
    image = clip[:1]
    assert torch.equal(cells(image, NINE)[0], cells(image, NINE)[8])


def test_a_picture_has_the_mean_and_deviation_it_is_given():
    frames = torch.full((1, 9, 3, 32, 32), 51, dtype=torch.uint8)  # 0.2
    torch.testing.assert_close(picture(frames, NINE, (0.1, 0.2, 0.3), (0.5, 0.5, 0.25))[0, :, 0, 0], torch.tensor([0.2, 0.0, -0.4]))


@pytest.mark.parametrize(("frames", "side", "tile"), [(5, 96, 8), (9, 100, 8), (9, 96, 7)])
def test_frames_that_fill_no_square_are_refused_with_a_way_out(frames, side, tile):
    with pytest.raises(ValueError, match=r"nearest|hint"):
        Mosaic(frames, side, tile)
