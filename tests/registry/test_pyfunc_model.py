"""What MLflow runs of a text-to-video model, row by row; that a server runs it is tested in test_server.py."""

import json
from pathlib import Path

import av
import pandas as pd
import pytest

from components.media.probe import read_metadata
from components.media.read import decode_clip
from components.models.weights import digest_folder
from components.registry.pyfunc_model import text_to_video
from tests.generate.test_generator import CAPTIONS, folder  # noqa: F401  (a text-to-video folder of small untrained parts)

ONE_STEP = {"seed": 3, "num_inference_steps": 1}


def test_a_row_is_a_prompt_or_a_prompt_with_the_files_of_a_verb(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    apply = text_to_video(folder)
    first, second = apply(pd.DataFrame({"prompt": CAPTIONS}), ONE_STEP)["video"]
    (tmp_path / "second.mp4").write_bytes(second)
    said = json.loads(read_metadata(tmp_path / "second.mp4")["comment"])
    assert (said["prompt"], said["seed"], said["verb"], said["model"]) == (CAPTIONS[1], 4, "text to video", digest_folder(folder))
    with av.open(str(tmp_path / "second.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"  # the one that browsers play
    rows = pd.DataFrame(
        [
            {"prompt": CAPTIONS[0]},
            {"prompt": CAPTIONS[0], "image": first},
            {"prompt": CAPTIONS[0], "video": first},
            {"prompt": CAPTIONS[0], "video": first, "second_video": second},
        ]
    )
    assert [len(decode_clip(video)) for video in apply(rows, ONE_STEP)["video"]] == [9, 9, 13, 22]
    assert len(decode_clip(apply(rows[2:3], {**ONE_STEP, "strength": 0.5})["video"][0])) == 9
    assert len(decode_clip(apply(rows[2:3], {**ONE_STEP, "backward": True, "num_frames": 2})["video"][0])) == 11
    with pytest.raises(ValueError, match="the prompt is empty"):
        apply(pd.DataFrame({"prompt": [""]}), ONE_STEP)
