"""`kinora generate`: a prompt, and perhaps pictures or videos, to a video file, with the project's champion; no Prefect and no Ray."""

import secrets
from typing import TYPE_CHECKING, Any

import click
import yaml

from components.diffusion.limits import MOST_STEPS
from components.generate.prompts import check_prompt, check_text
from flows.commands.options import Command, resolve, settings_options
from flows.commands.output import remark
from flows.commands.videos import ON_CPU, check_apart, check_name, device_of, gpu_memory, mp4_file, progress_bar, sampling_of

if TYPE_CHECKING:
    from components.generate.ask import Ask

MOST_SEED = 2**31
SMALLER = "fewer frames or a smaller size; `--num-frames`, `--height` and `--width` say them"
SAMPLING = {  # options of the command line and the settings that they set
    "sampler": "sampler",
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "guidance_interval": "guidance_interval",
    "guidance_rescale": "guidance_rescale",
    "negative_prompt": "negative_prompt",
    "timestep_shift": "timestep_shift",
}


def verb_options(command: Command) -> Command:
    """Adds the files that a video is made with, and its size and length."""
    for option in (
        click.option("--width", type=int, help="In pixels; a size that the model saw."),
        click.option("--height", type=int, help="In pixels; else the model's own, or the one nearest in aspect to what is given."),
        click.option("--seconds", type=float, help="The same as --num-frames, in seconds."),
        click.option(
            "--num-frames", type=int, help="Of the clip, to which --loop adds; 1 makes an image. With --extend or --connect: frames to add."
        ),
        click.option("--strength", type=float, help="Of --edit: how far towards noise, above 0, to 1 where nothing of it is left."),
        click.option("--edit", metavar="VIDEO", help="Draw VIDEO anew as PROMPT says."),
        click.option("--loop", is_flag=True, help="Lead from the end back to the beginning: of the clip, or of --extend's VIDEO."),
        click.option("--connect", nargs=2, metavar="A B", help="Lead from the video A to the video B."),
        click.option("--backward", is_flag=True, help="With --extend: make what comes before VIDEO."),
        click.option("--extend", metavar="VIDEO", help="Go on from VIDEO's end."),
        click.option("--keyframe", "keyframes", multiple=True, metavar="FILE@SECONDS", help="An image to be seen then; may be repeated."),
        click.option("--image", metavar="FILE", help="An image to begin with."),
    ):
        command = option(command)
    return command


def sampling_options(command: Command) -> Command:
    """Adds what sampling can be told; else a registered version samples as it was evaluated, a folder as it notes."""
    for option in (
        click.option("--timestep-shift", type=float, help="Above 1 more of the steps are near noise, where the layout is made."),
        click.option("--negative-prompt", metavar="TEXT", help="What guidance leads away from."),
        click.option("--guidance-rescale", type=float, help="0 to 1: against the oversaturation of large scales."),
        click.option("--guidance-interval", type=float, nargs=2, metavar="LOW HIGH", help="Of t, from 0, the clip, to 1, noise."),
        click.option("--guidance-scale", type=float, help="How hard the prompt pulls; 1 is without guidance."),
        click.option("--sampler", metavar="NAME", help="euler, heun, dpmpp_2m or unipc."),
        click.option(
            "--steps",
            type=click.IntRange(1, MOST_STEPS),
            help="Steps of sampling; else as the version was evaluated, or as a folder notes.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("prompt")
@click.option("-o", "--output", metavar="FILE", required=True, help="The MP4 file to write; a contact sheet, a PNG, comes beside it.")
@click.option("--model", default="champion", show_default=True, metavar="MODEL", help="An alias, a version, models:/NAME/N, or a folder.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="The same seed makes the same video; else one is drawn and printed.")
@click.option("--no-rewrite", is_flag=True, help="Tell the model the prompt as it is, not in the captions' words.")
@verb_options
@sampling_options
@settings_options
def generate(prompt: str, output: str, model: str, seed: int | None, no_rewrite: bool, **options: Any) -> None:
    """Make a video of PROMPT: from it alone, from an image or key frames, or by extending, connecting, looping or editing videos."""
    check_prompt(prompt)
    check_text("negative prompt", options["negative_prompt"] or "")
    path = mp4_file(output)
    ask, options = _ask_of(prompt, not no_rewrite, options)
    from components.generate.output import sheet_of, write_film

    sheet = sheet_of(path)
    check_name(sheet, f"the contact sheet `{sheet}`")
    for target, what in ((path, f"`-o {output}`"), (sheet, f"the contact sheet `{sheet}`")):
        check_apart(target, [file for _, file, _ in ask.files if not isinstance(file, bytes)], what)
    settings = {SAMPLING[name]: value for name in SAMPLING if (value := options.pop(name)) is not None}
    given = tuple(f"generate.{name}={yaml.safe_dump(value, default_flow_style=True)}" for name, value in settings.items())
    asked = resolve(**{**options, "overrides": (*options["overrides"], *given)})
    from components.registry.models import resolve_version

    folder, version = resolve_version(asked.project, "text-to-video", model)
    from components.generate.ask import make
    from components.generate.generator import Generator
    from components.models.weights import digest_folder

    seed = secrets.randbelow(MOST_SEED) if seed is None else seed
    with gpu_memory(ON_CPU):
        generator = Generator.load(folder, device_of(asked.config), model)
    with gpu_memory(SMALLER):
        making = make(generator, ask, seed, **sampling_of(asked, version))
    for note in making.notes:
        remark(note)
    if making.rewritten != prompt:
        remark(f"rewritten: {making.rewritten}")
    weights = digest_folder(folder)
    registered = None if version is None else {"name": version.name, "version": version.number}
    with gpu_memory(SMALLER), progress_bar("generating") as making.sampling.progress:
        write_film(path, making.film, generator.fps, {**making.made, "model": weights, "registered": registered})
    remark(f"seed: {seed}")
    remark(f"model: {model} ({weights[:12]})")
    remark(f"contact sheet: {sheet}")
    click.echo(str(path))


def _ask_of(prompt: str, rewrite: bool, options: dict[str, Any]) -> "tuple[Ask, dict[str, Any]]":
    """Answers what is to be made, and the options that do not say so."""
    from components.generate.ask import Ask

    names = ("image", "extend", "backward", "connect", "edit", "strength", "loop", "num_frames", "seconds", "height", "width")
    rest = {name: value for name, value in options.items() if name not in (*names, "keyframes")}
    keys = [_key_frame(said) for said in options["keyframes"]]
    said = {name: options[name] for name in names}
    return Ask(prompt, key_frames=keys, rewrite=rewrite, **said), rest


def _key_frame(said: str) -> tuple[str, float]:
    file, _, seconds = said.rpartition("@")
    try:
        return file, float(seconds)
    except ValueError:
        raise ValueError(f"`{said}` is no key frame; hint: `--keyframe FILE@SECONDS`, for example `{said.rstrip('@')}@0.5`") from None
