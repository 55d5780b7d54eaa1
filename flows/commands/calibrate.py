"""`kinora calibrate`: how much of a model's sampling may be left out for a stated likeness; starts no Prefect and no Ray."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from flows.commands.options import json_option, resolve, settings_options
from flows.commands.output import print_json, remark
from flows.commands.videos import ON_CPU, check_writable, device_of, gpu_memory, progress_bar, sampling_of, sets_sampling


@click.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FOLDER", required=True, help="Where to write the model with what was found.")
@click.option("--model", default="champion", show_default=True, metavar="MODEL", help="An alias, a version, models:/NAME/N, or a folder.")
@click.option("--min-psnr", type=float, default=40.0, show_default=True, metavar="DB", help="That each sample keeps to the uncached one.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the first prompt's sample.")
@json_option
@settings_options
def calibrate(prompts: tuple[str, ...], output: str, model: str, min_psnr: float, seed: int, as_json: bool, **options: Any) -> None:
    """Sample PROMPTs with step caches of rising threshold, and write the model with the last whose samples are like enough."""
    target = Path(output)
    if target.exists():
        raise ValueError(f"`{output}` is there already; hint: name a folder that is not")
    check_writable(target.parent)
    from components.generate.step_cache import calibrate as run
    from components.generate.step_cache import check_min_psnr

    check_min_psnr(min_psnr)
    asked = resolve(**options)
    from components.registry.models import resolve_version

    folder, version = resolve_version(asked.project, "text-to-video", model)
    from components.generate.generator import Generator
    from components.models.weights import copy_folder

    sampling = sampling_of(asked)
    with gpu_memory(ON_CPU):
        generator = Generator.load(folder, device_of(asked.config), model)
    if version is not None:  # its copy is a folder, which samples as it notes
        generator = replace(generator, notes={**generator.notes, "generate": generator.settings(**version.generate)})
    with gpu_memory("fewer PROMPTS"), progress_bar("calibrating") as bar:
        found = run(generator, prompts, min_psnr, seed, bar or (lambda done, total, what: None), **sampling)
    weights = copy_folder(folder, target, {"dit": {**generator.notes, "step_cache": vars(found)}})
    if as_json:
        print_json({"model": str(target), "weights": weights, **vars(found)})
        return
    if not found.threshold:
        remark(f"no step may be left out for {min_psnr:g} dB; hint: a lower --min-psnr")
    else:
        faster = f"{found.speed_up:.2f} times as fast on {found.device}"
        said = f"{found.blocks_ran:.0%} of the passes through the blocks are left, {faster}, {found.psnr:.1f} dB"
        remark(f"threshold {found.threshold:g}: {said}")
    sets = [*(said for said in asked.overrides if sets_sampling(said)), "generate.step_cache=calibrated"]
    words = ["--model", str(target), *(word for said in sets for word in ("--set", said))]
    remark(f"`kinora generate {shlex.join(words)}` samples with it")
    click.echo(str(target))
