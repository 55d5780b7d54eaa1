"""What MLflow runs when a model of Kinora is loaded or served: code from this file, weights from safetensors, nothing unpickled.

MLflow keeps this file, and what it needs of `components`, beside the weights: `mlflow models serve` needs the listed packages alone.
The model's configuration says which of the three kinds it is.
"""

import base64
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml

FILES = ("image", "video", "second_video")

Apply = Callable[[pd.DataFrame, dict[str, Any]], pd.DataFrame]


def text_to_video(folder: Path) -> Apply:
    """prompt, and perhaps image, video and second_video (files as bytes or base64) -> video (MP4 bytes, as browsers play it).

    A row with an image begins with it; with a video it goes on from that, or with two leads from the one to the other. A file that is
    null or empty is none, so rows of several kinds go together. Parameters:
    seed, of the first row, num_inference_steps, num_frames and strength, 0 for the model's own and for no edit, backward and loop.
    """
    generator = _named("components.generate.generator", "Generator").load(folder)
    model = {"model": _named("components.models.weights", "digest_folder")(folder), "registered": _registered(folder)}
    ask, make = (_named("components.generate.ask", name) for name in ("Ask", "make"))
    film_bytes = _named("components.generate.output", "film_bytes")

    def apply(rows: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        steps = params.get("num_inference_steps") or None
        videos = []
        for index, row in enumerate(rows.to_dict("records")):
            seed = int(params.get("seed", 0)) + index
            making = make(generator, ask(**_asked(row, params)), seed, num_inference_steps=steps)
            videos.append(film_bytes(making.film, generator.fps, {**making.made, **model}))
        return pd.DataFrame({"video": videos})

    return apply


def _asked(row: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Answers what a row asks for, as `components.generate.ask.Ask` takes it.

    Raises:
        ValueError: a file that is not base64, or a second video without a first.
    """
    image, video, second = (_file(row, name) for name in FILES)
    if second is not None and video is None:
        raise ValueError("`second_video` is what `video` leads to, and there is no `video`; hint: give both, or `video` alone")
    strength = params.get("strength") or None
    asked: dict[str, Any] = {"prompt": str(row["prompt"]), "image": image, "num_frames": params.get("num_frames") or None}
    asked |= {"backward": bool(params.get("backward")), "loop": bool(params.get("loop"))}
    if second is not None:
        return {**asked, "connect": (video, second)}
    return {**asked, "edit": video, "strength": strength} if strength else {**asked, "extend": video}


def _file(row: dict[str, Any], name: str) -> bytes | None:
    """Answers a file's bytes; None where it is null, absent (which pandas says by nan) or empty."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = base64.b64decode("".join(value.split()), validate=True)
        except ValueError as error:
            raise ValueError(f"`{name}` is no base64; hint: the bytes of a file in base64, or null for none") from error
    return value if isinstance(value, bytes) and value else None


def _registered(folder: Path) -> dict[str, Any] | None:
    """Answers the name and version by which MLflow fetched a model; None where it was not by them."""
    noted = folder.parent.parent / "registered_model_meta"
    said = yaml.safe_load(noted.read_text()) if noted.is_file() else {}
    return {"name": said["model_name"], "version": int(said["model_version"])} if said.get("model_version") else None


def captioner(folder: Path) -> Apply:
    """video (bytes of a clip) -> caption."""
    import torch

    coca = _named("components.openclip.load", "load_coca")(folder)
    decode_clip = _named("components.media.read", "decode_clip")
    cells, picture = _named("components.openclip.mosaic", "cells"), _named("components.openclip.mosaic", "picture")
    caption_pictures = _named("components.openclip.decode", "caption_pictures")

    def apply(rows: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        cut = torch.stack([cells(decode_clip(video), coca.mosaic) for video in rows["video"]])
        found = caption_pictures(coca, picture(cut, coca.mosaic, coca.mean, coca.std))
        return pd.DataFrame({"caption": [caption for caption, _ in found]})

    return apply


def video_vae(folder: Path) -> Apply:
    """video (bytes of a clip) -> its reconstruction (MP4 bytes); parameter: fps."""
    import torch

    vae = _named("components.encode.load_vae", "load_vae")(folder)
    to_pixels, to_frames = (_named("components.models.pixels", name) for name in ("to_pixels", "to_frames"))
    encode_video, decode_latents = (_named("components.models.tiles", name) for name in ("encode_clip", "decode_latents"))
    decode_clip, encode_clip = _named("components.media.read", "decode_clip"), _named("components.media.write", "encode_clip")

    def reconstructed(video: bytes) -> Any:
        clip = to_pixels(torch.from_numpy(decode_clip(video))[None])
        with torch.inference_mode():
            return to_frames(decode_latents(vae, encode_video(vae, clip)))[0].numpy()

    def apply(rows: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        return pd.DataFrame({"video": [encode_clip(reconstructed(video), int(params.get("fps", 8))) for video in rows["video"]]})

    return apply


KINDS: dict[str, Callable[[Path], Apply]] = {"text-to-video": text_to_video, "captioner": captioner, "video-vae": video_vae}


class KinoraModel(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """A registered model of Kinora behind MLflow's predict."""

    def load_context(self, context: Any) -> None:
        self.apply = KINDS[context.model_config["kind"]](Path(context.artifacts["weights"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        return self.apply(model_input, params or {})


def _named(module: str, name: str) -> Any:
    """Imports only what this kind needs, and only when it is loaded."""
    return getattr(importlib.import_module(module), name)


mlflow.models.set_model(KinoraModel())
