"""Fingerprints fit a table's whole numbers and come back as they were; a clip's measures are columns of the table."""

from fractions import Fraction

import numpy as np

from components.config import load_config
from components.measure.clips import READS, WRITES, MeasureClips, measure
from components.measure.fingerprint import WORDS, fingerprint, unpack
from components.media.write import encode_clip
from components.store.schema import CLIPS
from components.world.render import render_clips


def test_a_fingerprint_holds_the_mean_colours_of_cells():
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    frames[4, 8:16, 16:24] = (10, 200, 255)
    (cells,) = unpack([fingerprint(frames)])
    cells = cells.reshape(9, 8, 8, 3)
    assert cells[4, 1, 2].tolist() == [10, 200, 255]
    assert cells.sum() == 465


def test_long_clips_are_sampled_evenly_and_short_ones_whole():
    ramp = np.arange(49, dtype=np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    assert unpack([fingerprint(ramp)])[0, :, 0].tolist() == [0, 6, 12, 18, 24, 30, 36, 42, 48]
    assert len(fingerprint(ramp[:1])) == WORDS


def test_the_stage_writes_columns_of_the_clips_table_that_agree_with_measuring_by_hand():
    frames = render_clips("demo", 2, seed=1)[0]
    rows = [{"clip_id": str(i), "fps": "8", "video": encode_clip(clip, 8)} for i, clip in enumerate(frames)]
    measured = MeasureClips(load_config())(rows)
    assert [row["clip_id"] for row in measured] == ["0", "1"]
    assert set(measured[0]) == {"clip_id", *WRITES}
    assert {*READS, *WRITES} <= set(CLIPS.names)
    by_hand = measure(frames[0], Fraction(8))
    assert abs(measured[0]["luma"] - by_hand["luma"]) < 1
    assert abs(measured[0]["motion"] - by_hand["motion"]) < 0.2 * by_hand["motion"]
