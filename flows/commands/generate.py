"""`kinora generate`: a prompt to a video file, with the project's champion; starts no Prefect and no Ray."""

import json
import secrets
from typing import Any

import click

from flows.commands.options import Invocation, resolve, settings_options
from flows.commands.output import remark
from flows.commands.videos import device_of, mp4_file, progress_bar

MOST_SEED = 2**31


@click.command()
@click.argument("prompt")
@click.option("-o", "--output", metavar="FILE", required=True, help="The MP4 file to write.")
@click.option("--model", default="champion", show_default=True, metavar="MODEL", help="An alias, a version, models:/NAME/N, or a folder.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="The same seed makes the same video; else one is drawn and printed.")
@click.option("--steps", type=click.IntRange(1), help="Steps of sampling; else as the model was evaluated.")
@click.option("--guidance-scale", type=float, help="How hard the prompt pulls; 1 is without guidance.")
@click.option("--no-rewrite", is_flag=True, help="Tell the model the prompt as it is, not in the captions' words.")
@settings_options
def generate(
    prompt: str,
    output: str,
    model: str,
    seed: int | None,
    steps: int | None,
    guidance_scale: float | None,
    no_rewrite: bool,
    **options: Any,
) -> None:
    """Make a video of PROMPT."""
    if not prompt.strip():
        raise ValueError('the prompt is empty; hint: say what should be seen, for example "a red square moves left"')
    path = mp4_file(output)
    asked = resolve(**options)
    from components.registry.models import resolve as resolve_model

    folder = resolve_model(asked.project, "text-to-video", model)
    from components.generate.generator import Generator
    from components.models.weights import digest_folder

    seed = secrets.randbelow(MOST_SEED) if seed is None else seed
    generator = Generator.load(folder, device_of(asked.config))
    settings = _sampling(asked, steps, guidance_scale)
    with progress_bar("generating") as progress:
        (sample,) = generator.generate([prompt], [seed], rewrite=not no_rewrite, progress=progress, **settings)
    from components.media.write import write_video

    weights = digest_folder(folder)
    said = {
        "prompt": sample.prompt,
        "rewritten": sample.rewritten,
        "seed": seed,
        "model": weights,
        "settings": {**generator.notes["generate"], **settings},
    }
    write_video(path, sample.frames, generator.fps, metadata={"title": prompt, "comment": json.dumps(said, sort_keys=True)})
    if sample.rewritten != sample.prompt:
        remark(f"rewritten: {sample.rewritten}")
    remark(f"seed: {seed}")
    remark(f"model: {model} ({weights[:12]})")
    click.echo(str(path))


def _sampling(asked: Invocation, steps: int | None, guidance_scale: float | None) -> dict[str, Any]:
    """Answers what the command line says of sampling; what it does not say is as the model's folder notes."""
    named = {
        override.partition("=")[0].strip().removeprefix("generate.") for override in asked.overrides if override.startswith("generate.")
    }
    chosen = {name: value for name, value in asked.config.generate.model_dump().items() if name in named}
    if steps is not None:
        chosen["num_inference_steps"] = steps
    if guidance_scale is not None:
        chosen["guidance_scale"] = guidance_scale
    return chosen
