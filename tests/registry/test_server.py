"""The same registry and tracking over the network, with a real MLflow server; and what MLflow serves of a registered model."""

import base64
import json
import os
import shlex
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest

from components.media.probe import read_metadata
from components.media.read import decode_clip
from components.models.weights import digest_folder
from components.registry import tracking
from components.registry.gates import Check, Verdict
from components.registry.models import download, find, list_versions, promote, register, resolve
from components.registry.tracking import Tracker, client_of
from components.store.project import Project
from tests.flows.serving import free_port, serving
from tests.generate.test_generator import folder as text_to_video  # noqa: F401  (a folder of small untrained parts)

YES = Verdict([Check("psnr", 30.0, 29.0, 22.0, True, "psnr: 30.000, needs 22.000")])


@contextmanager
def tracking_server(folder: Path, port: int) -> Iterator[str]:
    """Runs a tracking server on the loopback, that keeps the files itself, until a SIGKILL at the end of the block."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'm.db'}", "--artifacts-destination", str(folder / "files")]
    address = f"http://127.0.0.1:{port}"
    with serving(command, folder, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, f"{address}/health"):
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server for all tests of this file."""
    with tracking_server(tmp_path_factory.mktemp("server"), free_port()) as address:
        yield address


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_every_step_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """What a training tells while the server is away waits in the project; no step waits for the server."""
    port = free_port()
    with tracking_server(tmp_path, port) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        run = Tracker(project).run("train_dit", "away")
        run.log_params({"dit": {"steps": 60}})
        for step in range(1, 11):
            run.log_metrics([(step, {"loss": 1.0 / step})])
        assert run.run_id
    with caplog.at_level("WARNING", logger="kinora"):
        monkeypatch.setattr(tracking, "SEND_EVERY_SECONDS", 0.0)
        run._next_try = 0.0  # the first step after the kill finds the server gone
        for step in range(11, 51):
            run.log_metrics([(step, {"loss": 1.0 / step})])
    assert [record.getMessage().split(" (")[0] for record in caplog.records if record.name == "kinora"] == [
        f"MLflow at `{address}` is away"
    ]
    with tracking_server(tmp_path, port):
        run.log_metrics([(step, {"loss": 1.0 / step}) for step in range(51, 61)])
        run.close()
        client = client_of(project)
        found = client.get_metric_history(run.run_id, "loss")
        assert [(metric.step, metric.value) for metric in found] == [(step, 1.0 / step) for step in range(1, 61)]
        assert client.get_run(run.run_id).info.status == "FINISHED"
        assert client.get_run(run.run_id).data.params == {"dit.steps": "60"}
    assert list((project.folder / "tracking").iterdir()) == []


@pytest.mark.long
def test_a_server_keeps_runs_versions_and_aliases_alike(
    server: str, project: Project, weights: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    (tmp_path / "sheet.png").write_bytes(b"png")
    for lines in ([(1, {"loss": 1.0}), (2, {"loss": 0.5})], [(1, {"loss": 1.0}), (2, {"loss": 0.5}), (3, {"loss": 0.25})]):
        run = Tracker(project).run("train_vae", "k")
        run.log_params({"vae": {"steps": 3}})
        run.log_metrics(lines)
        run.log_artifact(tmp_path / "sheet.png", "sheets")
        run.close()
    history = client_of(project).get_metric_history(run.run_id, "loss")
    assert [metric.step for metric in history] == [1, 2, 3]

    assert find(project, "video-vae", "champion") is None
    assert list_versions(project, "video-vae") == []
    first = register(project, "video-vae", weights(1.0), {"psnr": 30.0}, {"note": "x"}, run_id=run.run_id)
    assert register(project, "video-vae", weights(1.0), {}, {}).number == first.number == 1
    promote(project, "video-vae", first, YES, None)
    second = register(project, "video-vae", weights(2.0), {}, {})
    promote(project, "video-vae", second, YES, find(project, "video-vae", "champion"))
    assert {alias: version.number for version in list_versions(project, "video-vae") for alias in version.aliases} == {
        "champion": 2,
        "previous-champion": 1,
    }
    folder = resolve(project, "video-vae", "champion")
    assert digest_folder(folder) == digest_folder(weights(2.0))
    assert folder.is_relative_to(project.folder)
    assert download(project, second) == folder


@pytest.mark.slow
def test_mlflow_serves_a_video_of_a_prompt_and_goes_on_from_one(
    text_to_video: Path,  # noqa: F811
    repository: Path,
    tmp_path: Path,
):
    """By the words of the README, typed where `runs` is and the environment is activated."""
    project = Project(tmp_path / "runs", "demo")
    version = register(project, "text-to-video", text_to_video, {}, {})
    promote(project, "text-to-video", version, YES, None)
    line = next(line for line in (repository / "README.md").read_text().splitlines() if " mlflow models serve " in line)
    (where, uri), (*command, named) = line.split()[0].split("="), shlex.split(line)[1:]
    assert named.isdigit()  # the port
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    found = {where: uri, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with serving([*command, str(port)], tmp_path, found, f"{address}/health"):
        prompts: list[dict[str, str | None]] = [{"prompt": "a red square moves left"}, {"prompt": "a red ring", "image": None}]
        first, _ = invoked(address, {"dataframe_records": prompts, "params": {"seed": 3, "num_inference_steps": 1}})
        (tmp_path / "first.mp4").write_bytes(first)
        rows = [{"prompt": "a red square moves left", "video": base64.b64encode(first).decode()}]
        (longer,) = invoked(address, {"dataframe_records": rows, "params": {"num_inference_steps": 1, "num_frames": 4}})
        both, _ = invoked(address, {"dataframe_records": [*rows, *prompts[:1]], "params": {"num_inference_steps": 1}})
        (edit,) = invoked(address, {"dataframe_records": rows, "params": {"num_inference_steps": 1, "strength": 0.5}})
    assert [decode_clip(video).shape for video in (first, longer, both, edit)] == [
        (9, 32, 32, 3),
        (13, 32, 32, 3),
        (13, 32, 32, 3),
        (9, 32, 32, 3),
    ]
    said = json.loads(read_metadata(tmp_path / "first.mp4")["comment"])
    assert (said["seed"], said["verb"], said["model"]) == (3, "text to video", version.weights)
    assert said["registered"] == {"name": version.name, "version": version.number}
    with av.open(str(tmp_path / "first.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"  # the one that browsers play


def invoked(address: str, payload: dict[str, object]) -> list[bytes]:
    """Answers the videos that a served model makes."""
    body = json.dumps(payload).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [base64.b64decode(row["video"]) for row in json.load(answer)["predictions"]]


@pytest.mark.long
@pytest.mark.parametrize("pretrained", [False, True])
def test_mlflow_runs_a_registered_vae_from_code_and_safetensors(
    pretrained: bool, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import diffusers
    import mlflow
    import pandas as pd

    from components.encode.pretrained_vae import WanVae
    from components.encode.pretrained_weights import save_pretrained_vae
    from components.media.write import encode_clip
    from components.models.sizes import VAE_SIZES
    from components.models.vae import VideoVae, save_vae

    if pretrained:
        wan = diffusers.AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
        save_pretrained_vae(tmp_path / "vae", WanVae(wan), {})
    else:
        save_vae(tmp_path / "vae", VideoVae(VAE_SIZES["tiny"]), {})
    version = register(project, "video-vae", tmp_path / "vae", {}, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.number}")
    needed = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{version.name}/{version.number}")).read_text()
    assert ("diffusers==" in needed) == pretrained
    clip = encode_clip(np.full((9, 32, 32, 3), 200, np.uint8), 8)
    (video,) = model.predict(pd.DataFrame({"video": [clip]}))["video"]
    assert decode_clip(video).shape == (9, 32, 32, 3)
