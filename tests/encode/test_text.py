import numpy as np
import pytest

from components.encode.text import EncodeText
from components.models.sizes import COCA_SIZES
from components.openclip.load import build_coca, save_coca

CAPTIONS = ["a red square moves left", "a blue ring"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coca") / "coca"
    save_coca(folder, build_coca(COCA_SIZES["tiny"], CAPTIONS, mosaic_frames=4, mean=[0.5] * 3, std=[0.25] * 3, seed=0))
    return EncodeText(folder)


def test_rows_keep_their_order_and_get_one_vector_a_token(stage):
    rows = stage([{"clip_id": str(i), "caption": caption} for i, caption in enumerate([*CAPTIONS, CAPTIONS[0]])])
    assert [row["clip_id"] for row in rows] == ["0", "1", "2"]
    for row in rows:
        assert set(row) == set(EncodeText.WRITES)
        assert row["text_embeds"].dtype == np.float16
        assert list(row["text_embeds"].shape) == row["text_shape"]
    assert rows[0]["text_shape"][0] > rows[1]["text_shape"][0]
    assert np.array_equal(rows[0]["text_embeds"], rows[2]["text_embeds"])


def test_a_caption_is_encoded_the_same_whatever_it_is_batched_with(stage):
    together, alone = stage.encode(CAPTIONS)[1], stage.encode(CAPTIONS[1:])[0]
    np.testing.assert_allclose(together, alone, atol=2e-3)


def test_the_empty_prompt_is_its_two_marks(stage):
    assert len(stage.encode([""])[0]) == 2
    assert stage.encode([]) == []
