import numpy as np
import pytest

from components.media.read import read_frames
from components.report.data import Reconstruction
from components.report.sheets import clip_sheet, reconstruction_sheet


def test_sheets_show_clips_below_each_other_and_reconstructions_below_their_originals(tmp_path):
    clip = np.zeros((9, 32, 32, 3), np.uint8)
    (sheet,) = read_frames(clip_sheet(tmp_path / "clips.png", [clip, clip], columns=3))
    assert (sheet.height, sheet.width) == (2 * 128 + 2, 3 * 128 + 2 * 2)
    pair = Reconstruction(clip, np.full_like(clip, 255))
    (sheet,) = read_frames(reconstruction_sheet(tmp_path / "pairs.png", [pair], columns=2))
    assert sheet.rgb[:128].max() == 0 or sheet.rgb[:128, :128].max() == 0
    assert sheet.rgb[130:, :128].min() == 255
    with pytest.raises(ValueError, match="at least one"):
        clip_sheet(tmp_path / "none.png", [])
