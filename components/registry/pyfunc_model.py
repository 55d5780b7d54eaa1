"""What MLflow runs when a model of Kinora is loaded or served: code from this file, weights from safetensors, nothing unpickled.

MLflow keeps this file, and what it needs of `components`, beside the weights: `mlflow models serve` needs the listed packages alone.
The model's configuration says which of the three kinds it is, and where it computes: on a GPU where there is one, unless `device` names
another. MLflow takes that from `load_model(..., model_config=...)` or from MLFLOW_PYFUNC_INFERENCE_CONFIG.
"""

import base64
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml

FILES = ("image", "video", "second_video")
OPTION = re.compile(r"--(?P<name>[a-z-]+)(?: (?P<value>[^ `]+))?")
SAID_AS = {
    "extend": "video",
    "connect": "second_video",
    "edit": "strength",
}  # of a row or a parameter, what an option of `kinora generate` is

Apply = Callable[[pd.DataFrame, dict[str, Any]], pd.DataFrame]


def text_to_video(folder: Path, device: str = "cpu", generate: Mapping[str, Any] | None = None) -> Apply:
    """prompt, and perhaps image, video and second_video (files as bytes or base64) -> video (MP4 bytes, as browsers play it).

    A row with an image begins with it; with a video it goes on from that, or with two leads from the one to the other. A file that is
    null or empty is none, so rows of several kinds go together. Parameters:
    seed, of the first row (the next ones have the next), num_inference_steps, num_frames and strength, 0 for the model's own and for no
    edit, backward and loop.

    Args:
        generate: settings of sampling in place of those that the model's notes say.
    """
    generator = _named("components.generate.generator", "Generator").load(folder, device)
    model = {"model": _named("components.models.weights", "digest_folder")(folder), "registered": _registered(folder)}
    ask, make = (_named("components.generate.ask", name) for name in ("Ask", "make"))
    film_bytes = _named("components.generate.output", "film_bytes")

    def apply(rows: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        steps = params.get("num_inference_steps")
        settings = {**(generate or {}), **({"num_inference_steps": steps} if steps else {})}
        videos = []
        for index, row in enumerate(rows.to_dict("records")):
            seed = int(params.get("seed", 0)) + index
            try:
                making = make(generator, ask(**_asked(row, params)), seed, **settings)
            except ValueError as error:
                error.args = (_without_options(str(error)),)
                raise
            videos.append(film_bytes(making.film, generator.fps, {**making.made, **model}))
        return pd.DataFrame({"video": videos})

    return apply


def _asked(row: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Answers what a row asks for, as `components.generate.ask.Ask` takes it.

    Raises:
        ValueError: a file that is neither bytes nor base64, or a second video without a first.
    """
    image, video, second = (_file(row, name) for name in FILES)
    if second is not None and video is None:
        raise ValueError("`second_video` is what `video` leads to, and there is no `video`; hint: give both, or `video` alone")
    strength = params.get("strength") or None
    asked: dict[str, Any] = {"prompt": _prompt(row), "image": image, "num_frames": params.get("num_frames") or None}
    asked |= {"backward": bool(params.get("backward")), "loop": bool(params.get("loop"))}
    if second is not None:
        return {**asked, "connect": (video, second)}
    return {**asked, "edit": video, "strength": strength} if strength else {**asked, "extend": video}


def _without_options(sentence: str) -> str:
    """Says a sentence that names options of `kinora generate` by what a row and its parameters have in their place."""

    def named(quoted: re.Match[str]) -> str:
        said = []
        for option in OPTION.finditer(quoted[0]):
            name, value = option["name"], option["value"]
            if value == "VIDEO":
                name, value = "extend", None
            said.append(f"`{SAID_AS.get(name, name.replace('-', '_'))}`{f' {value}' if value else ''}")
        return " and ".join(said)

    sentence = re.sub(r"`--extend` (that video|its file)", r"give \1 as `video`", sentence)
    return re.sub(r"`--[^`]+`", named, sentence)


def _prompt(row: dict[str, Any]) -> str:
    """Answers a row's prompt; one that is null or absent is empty, which making a video refuses."""
    value = row.get("prompt")
    return "" if _is_null(value) else str(value)


def _file(row: dict[str, Any], name: str) -> bytes | None:
    """Answers a file's bytes; None where it is null, absent or empty."""
    value = row.get(name)
    if _is_null(value):
        return None
    if isinstance(value, str):
        try:
            value = base64.b64decode("".join(value.split()), validate=True)
        except ValueError as error:
            raise ValueError(f"`{name}` is no base64; hint: the bytes of a file in base64, or null for none") from error
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"`{name}` is no file but {type(value).__name__}; hint: the bytes of a file, or those in base64, or null for none")
    return bytes(value) or None


def _is_null(value: Any) -> bool:
    """Answers whether a cell is null, which pandas says by None, nan or NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _registered(folder: Path) -> dict[str, Any] | None:
    """Answers the name and version by which MLflow fetched a model; None where it was not by them."""
    noted = folder.parent.parent / "registered_model_meta"
    said = yaml.safe_load(noted.read_text()) if noted.is_file() else {}
    return {"name": said["model_name"], "version": int(said["model_version"])} if said.get("model_version") else None


def captioner(folder: Path, device: str = "cpu") -> Apply:
    """video (bytes of a clip) -> caption."""
    import torch

    coca = _named("components.openclip.load", "load_coca")(folder, device)
    decode_clip = _named("components.media.read", "decode_clip")
    cells, picture = _named("components.openclip.mosaic", "cells"), _named("components.openclip.mosaic", "picture")
    caption_pictures = _named("components.openclip.decode", "caption_pictures")

    def apply(rows: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        cut = torch.stack([cells(decode_clip(video), coca.mosaic) for video in rows["video"]])
        found = caption_pictures(coca, picture(cut, coca.mosaic, coca.mean, coca.std).to(device))
        return pd.DataFrame({"caption": [caption for caption, _ in found]})

    return apply


def video_vae(folder: Path, device: str = "cpu") -> Apply:
    """video (bytes of a clip) -> its reconstruction (MP4 bytes); parameter: fps."""
    import torch

    vae = _named("components.encode.load_vae", "load_vae")(folder, device)
    to_pixels, to_frames = (_named("components.models.pixels", name) for name in ("to_pixels", "to_frames"))
    encode_video, decode_latents = (_named("components.models.tiles", name) for name in ("encode_clip", "decode_latents"))
    decode_clip, encode_clip = _named("components.media.read", "decode_clip"), _named("components.media.write", "encode_clip")

    def reconstructed(video: bytes) -> Any:
        clip = to_pixels(torch.from_numpy(decode_clip(video))[None].to(device))
        with torch.inference_mode():
            return to_frames(decode_latents(vae, encode_video(vae, clip)))[0].cpu().numpy()

    def apply(rows: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        return pd.DataFrame({"video": [encode_clip(reconstructed(video), int(params.get("fps", 8))) for video in rows["video"]]})

    return apply


KINDS: dict[str, Callable[..., Apply]] = {"text-to-video": text_to_video, "captioner": captioner, "video-vae": video_vae}


class KinoraModel(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """A registered model of Kinora behind MLflow's predict."""

    def load_context(self, context: Any) -> None:
        config = dict(context.model_config)
        load = _running_kinds()[config.pop("kind")]
        weights = Path(context.artifacts["weights"])
        _leave_path(weights.parent.parent / "code")
        self.apply = load(weights, device_of(config.pop("device", None)), **config)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        return self.apply(model_input, params or {})


def device_of(named: str | None) -> str:
    """Answers where a model computes, for torch: where it is told to, else on a GPU where there is one.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if not named:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=named)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` is `{named}`, which is not to be had here; hint: `cpu`, or null for a GPU if there is one") from error
    return named


def _running_kinds() -> Mapping[str, Callable[..., Apply]]:
    """Answers how the Kinora that runs loads models: its parts may be newer than this file. What is beside a model is as old as this."""
    try:
        kinds: Mapping[str, Callable[..., Apply]] = importlib.import_module(".registry.pyfunc_model", "components").KINDS
    except ModuleNotFoundError:
        return KINDS
    return kinds


def _leave_path(code: Path) -> None:
    """Takes the code beside a model off the path of imports again, where Kinora runs from elsewhere.

    MLflow puts it first, and it is a part of Kinora only: a process started from this one would find no other part.
    """
    running = importlib.import_module("components").__file__
    if running and not Path(running).resolve().is_relative_to(code.resolve()):
        sys.path[:] = [place for place in sys.path if Path(place).resolve() != code.resolve()]


def _named(module: str, name: str) -> Any:
    """Imports only what this kind needs, and only when it is loaded."""
    return getattr(importlib.import_module(module), name)


mlflow.models.set_model(KinoraModel())
