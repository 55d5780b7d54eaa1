"""`kinora reconstruct`: a file and what the video VAE makes of it, side by side; starts no Prefect and no Ray."""

import shlex
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from flows.commands.options import json_option, resolve, settings_options
from flows.commands.output import print_json, remark
from flows.commands.videos import ON_CPU, check_apart, device_of, gpu_memory, mp4_file, progress_bar

STILL_FPS = Fraction(8)  # of a picture, which has no rate of its own


@click.command()
@click.argument("video")
@click.option("-o", "--output", metavar="FILE", required=True, help="The MP4 file to write.")
@click.option("--model", default="champion", show_default=True, metavar="MODEL", help="An alias, a version, models:/NAME/N, or a folder.")
@json_option
@settings_options
def reconstruct(video: str, output: str, model: str, as_json: bool, **options: Any) -> None:
    """Write VIDEO and its reconstruction side by side, and say how like they are."""
    source, target, quoted = Path(video), mp4_file(output), shlex.quote(video)
    if not source.is_file():
        raise ValueError(f"`{video}` is not a file; hint: name a video or an image")
    check_apart(target, [source], f"`-o {output}`")
    asked = resolve(**options)
    from components.registry.models import resolve as resolve_model

    folder = resolve_model(asked.project, "video-vae", model)
    from components.encode.load_vae import load_vae
    from components.generate.reconstruct import reconstruct as run
    from components.media.probe import probe
    from components.media.read import UnusableFile
    from components.models.weights import digest_folder

    device = device_of(asked.config)
    try:
        found = probe(source, asked.config.footage)
        with progress_bar("reconstructing") as bar:

            def progress(done: int) -> None:
                if bar is not None:
                    bar(done, found.declared_frames, "frames")

            with gpu_memory(ON_CPU):
                like = run(load_vae(folder, device), source, target, found.fps or STILL_FPS, device=device, progress=progress)
    except UnusableFile as error:
        raise ValueError(f"`{video}` cannot be used: {error}; hint: `ffmpeg -i {quoted} copy.mp4` often mends a file") from error
    weights = digest_folder(folder)
    if as_json:
        print_json({"video": str(target), "frames": len(like.errors), "psnr": like.psnr, "ssim": like.ssim, "model": weights})
        return
    similar = "" if like.ssim is None else f", SSIM {like.ssim:.4f}"
    remark(f"{len(like.errors)} frames: PSNR {like.psnr:.2f} dB{similar}")
    remark(f"model: {model} ({weights[:12]})")
    click.echo(str(target))
