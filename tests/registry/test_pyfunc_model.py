"""What MLflow runs of a text-to-video model, row by row; that a server runs it is tested in test_server.py."""

import base64
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch

from components.media.probe import read_metadata
from components.media.read import decode_clip
from components.media.write import encode_png
from components.models.weights import digest_folder
from components.registry.models import generate_tag, register
from components.registry.pyfunc_model import KINDS, KinoraModel, text_to_video
from components.store.project import Project
from tests.generate.test_generator import CAPTIONS, folder  # noqa: F401  (a text-to-video folder of small untrained parts)

ONE_STEP = {"seed": 3, "num_inference_steps": 1}


def test_a_row_is_a_prompt_or_a_prompt_with_the_files_of_a_verb(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    apply = text_to_video(folder)
    first, second = apply(pd.DataFrame({"prompt": CAPTIONS}), ONE_STEP)["video"]
    (tmp_path / "second.mp4").write_bytes(second)
    said = json.loads(read_metadata(tmp_path / "second.mp4")["comment"])
    assert (said["prompt"], said["seed"], said["verb"], said["model"]) == (CAPTIONS[1], 4, "text to video", digest_folder(folder))
    assert (said["registered"], said["files"], said["settings"]["num_inference_steps"]) == (None, [], 1)
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
    for row, message in (
        *(({"prompt": nothing}, "the prompt is empty") for nothing in ("", None, float("nan"), pd.NA)),
        ({"image": first}, "the prompt is empty"),
        ({"prompt": CAPTIONS[0], "image": [1, 2]}, "`image` is no file but list; hint"),
        ({"prompt": CAPTIONS[0], "second_video": first}, "there is no `video`; hint: give both"),
        ({"prompt": CAPTIONS[0], "image": "no film!"}, "`image` is no base64; hint"),
    ):
        with pytest.raises(ValueError, match=message):
            apply(pd.DataFrame([row]), ONE_STEP)


def test_what_a_row_cannot_ask_for_is_said_in_names_of_rows_and_parameters(folder: Path) -> None:  # noqa: F811
    apply = text_to_video(folder)
    (film,) = apply(pd.DataFrame({"prompt": CAPTIONS[:1]}), ONE_STEP)["video"]
    for files, params, message in (
        ({}, {"num_frames": 17}, "hint: `num_frames` 9 and then give that video as `video` for more"),
        ({}, {"num_frames": 20_000}, "hint: fewer, and then give that video as `video` for more"),
        ({}, {"backward": True}, "`backward` says where `video` goes; hint: `video` and `backward`"),
        ({}, {"num_frames": -1}, "`num_frames` is a number above 0, not -1; hint"),
        ({"video": film}, {"strength": 2.0}, "`strength` is above 0 and at most 1, not 2.0; hint"),
        (
            {"video": film},
            {"strength": 0.5, "loop": True},
            "`loop` does not go with `strength`; hint: give its file as `video` with `loop`",
        ),
        ({"image": film, "video": film, "second_video": film}, {}, "`image` and `second_video` are two things to make"),
    ):
        with pytest.raises(ValueError, match="hint: ") as refused:
            apply(pd.DataFrame([{"prompt": CAPTIONS[0], **files}]), {**ONE_STEP, **params})
        assert message in str(refused.value)
        assert "--" not in str(refused.value)


def test_a_file_that_is_null_or_empty_is_none(folder: Path) -> None:  # noqa: F811
    apply = text_to_video(folder)
    rows = pd.DataFrame([{"prompt": CAPTIONS[0], "image": nothing} for nothing in (None, float("nan"), b"", "", "  ")])
    for video in apply(rows, ONE_STEP)["video"]:
        assert len(decode_clip(video)) == 9


def test_the_bytes_of_a_file_may_be_of_any_kind_and_what_is_cut_of_it_is_said(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    wide = encode_png(np.zeros((32, 64, 3), np.uint8))
    rows = pd.DataFrame([{"prompt": CAPTIONS[0], "image": kind(wide)} for kind in (bytes, bytearray, memoryview)])
    made = []
    for video in text_to_video(folder)(rows, ONE_STEP)["video"]:
        (tmp_path / "made.mp4").write_bytes(video)
        made.append(json.loads(read_metadata(tmp_path / "made.mp4")["comment"]))
    assert {said["verb"] for said in made} == {"image to video"}
    assert made[0]["notes"] == made[1]["notes"] == made[2]["notes"]
    assert any("cut" in note for note in made[0]["notes"])


@pytest.mark.parametrize(
    ("named", "gpu", "expected"), [(None, True, "cuda"), (None, False, "cpu"), ("cpu", True, "cpu"), ("meta", False, "meta")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_computes_on_a_gpu_where_there_is_one_unless_it_is_told_another_device(
    kind: str, named: str | None, gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, str]] = []
    monkeypatch.setitem(KINDS, kind, lambda *place: asked.append(place))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    KinoraModel().load_context(SimpleNamespace(model_config={"kind": kind, "device": named}, artifacts={"weights": "w"}))
    assert asked == [(Path("w"), expected)]


def test_a_registered_model_is_sampled_as_it_was_evaluated_and_where_it_is_told_to(
    folder: Path,  # noqa: F811
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    version = register(project, "text-to-video", folder, {}, generate_tag({"num_inference_steps": 2, "guidance_scale": 7.0}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    uri = f"models:/{version.name}/{version.number}"

    def settings(model: Any, params: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / "made.mp4").write_bytes(model.predict(pd.DataFrame({"prompt": CAPTIONS[:1]}), params=params)["video"][0])
        found: dict[str, Any] = json.loads(read_metadata(tmp_path / "made.mp4")["comment"])["settings"]
        return found

    before = list(sys.path)
    model = mlflow.pyfunc.load_model(uri, model_config={"device": "cpu"})
    assert sys.path == before  # a process started from here finds Kinora, not the part of it that is beside the model
    for params, steps in (({}, 2), ({"num_inference_steps": 1}, 1)):
        said = settings(model, params)
        assert (said["num_inference_steps"], said["guidance_scale"]) == (steps, 7.0)
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", '{"device": "nowhere"}')
    with pytest.raises(ValueError, match="`device` is `nowhere`, which is not to be had here; hint: `cpu`"):
        mlflow.pyfunc.load_model(uri)


def test_a_model_of_an_earlier_kinora_is_run_as_the_one_that_loads_it_does(
    folder: Path,  # noqa: F811
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    version = register(project, "text-to-video", folder, {}, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.number}", dst_path=str(tmp_path / "earlier"))
    entry = tmp_path / "earlier" / "pyfunc_model.py"
    text = entry.read_text()
    entry.write_text(text.replace("making.film", "making.frames"))  # as if a part had another name then
    assert entry.read_text() != text
    model = mlflow.pyfunc.load_model(str(tmp_path / "earlier"))
    assert len(decode_clip(model.predict(pd.DataFrame({"prompt": CAPTIONS[:1]}), params=ONE_STEP)["video"][0])) == 9


def test_a_registered_model_takes_rows_of_several_kinds_and_says_its_version(
    folder: Path,  # noqa: F811
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What MLflow does with the JSON of a request, without a server."""
    import mlflow
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    version = register(project, "text-to-video", folder, {}, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.number}")
    picture = base64.b64encode(encode_png(np.zeros((32, 32, 3), np.uint8))).decode()
    records: list[dict[str, str | None]] = [{"prompt": CAPTIONS[0]}, {"prompt": CAPTIONS[0], "image": None}]
    records += [{"prompt": CAPTIONS[0], "image": ""}, {"prompt": CAPTIONS[0], "image": picture}]
    verbs = ["text to video", "text to video", "text to video", "image to video"]
    for asked, expected in ((records, verbs), (records[1:2], verbs[1:2])):
        rows = infer_and_parse_data({"dataframe_records": asked}, model.metadata.get_input_schema())
        made = model.predict(rows, params=ONE_STEP)["video"]
        for place, (video, verb) in enumerate(zip(made, expected, strict=True)):
            (tmp_path / f"{place}.mp4").write_bytes(video)
            said = json.loads(read_metadata(tmp_path / f"{place}.mp4")["comment"])
            assert (said["verb"], said["registered"]) == (verb, {"name": version.name, "version": version.number})
    assert model.predict(pd.DataFrame([{"prompt": CAPTIONS[0], "image": base64.b64decode(picture)}]), params=ONE_STEP)["video"][0]
    for nothing in ([{"prompt": None}], [{"prompt": CAPTIONS[0]}, {"prompt": None}]):
        rows = infer_and_parse_data({"dataframe_records": nothing}, model.metadata.get_input_schema())
        with pytest.raises(ValueError, match="the prompt is empty; hint"):
            model.predict(rows, params=ONE_STEP)
