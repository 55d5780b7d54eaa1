"""The loops in little, as a worker of a process group runs them."""

import datetime
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from components.cluster.training import _wrapper
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, of_worker

if TYPE_CHECKING:
    from components.models.sequence_parallel import SequenceGroup

STEPS = 6
PACKED = [(3, 6, 6), (3, 6, 6), (1, 2, 2), (2, 4, 6)]  # clips of 9, 9, 1 and 6 tokens a frame
TIMESTEPS = ("of clips", "of frames", "of tokens")


def work(folder: Path, rank: int, world_size: int, port: int, trainings: Sequence[str] = ()) -> None:
    """One worker's life: it joins the group, trains one after the other and leaves."""
    from components.models.sequence_parallel import SequenceGroup

    torch.set_num_threads(1)
    if world_size > 1:
        place, wait = f"tcp://127.0.0.1:{port}", datetime.timedelta(seconds=60)
        torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=world_size, timeout=wait)
    for training in trainings or TRAININGS:
        (folder / training).mkdir(exist_ok=True)
        sharded, metrics = world_size > 1 and training.startswith("sharded"), folder / training / "metrics.jsonl"
        TRAININGS[training](folder / training, of_worker(rank, world_size, "cpu", 1, metrics, _wrapper(world_size, "cpu"), sharded))
    if world_size > 1:
        accuse(of_worker(rank, world_size, "cpu", 1, folder / "accused" / "metrics.jsonl", lambda model: model))
        divide(folder, rank)
        told = hold_out(of_worker(rank, world_size, "cpu", 1, folder / "metrics.jsonl", lambda model: model), SequenceGroup(rank, 2))
        (folder / f"held out {rank}.json").write_text(json.dumps(told))
        torch.distributed.destroy_process_group()


def accuse(context: TrainContext) -> None:
    """Skips one step for a clip that rank 1 alone holds, and one for nobody's."""
    from components.train.steps import SkippedSteps

    skipped = SkippedSteps("vae", context)
    context.begin(0)
    losses, names = [([1.0, 2.0, 1.5], ("a", "b", "c")), ([1.0, 1e4], ("d", "a clip of the other worker"))][context.rank]
    assert not skipped.is_whole(3, math.inf, torch.tensor(losses), names)
    assert not skipped.is_whole(8, math.nan, torch.ones(len(names)), names)
    assert skipped.is_whole(9, 1.0, torch.ones(len(names)), names)


def divide(folder: Path, rank: int) -> None:
    """Shares out the tokens of packed clips among two workers, and leaves what each of them answers and what both learn."""
    from components.models.sequence_parallel import SequenceGroup

    for timesteps in TIMESTEPS:
        found = velocities_and_gradients(SequenceGroup(rank, 2), timesteps)
        for name, value in found.items():
            if not name.startswith("velocity"):  # as DDP takes the mean of its workers' gradients
                torch.distributed.all_reduce(value)
                value /= 2
        save_file(found, folder / f"{timesteps} {rank}.safetensors")


def hold_out(context: TrainContext, sequence: "SequenceGroup | None" = None) -> tuple[dict[str, float], list[int]]:
    """The losses of three held-out clips, and how many tokens went through the first block of each pass."""
    from components.models.dit import DiT
    from components.models.sizes import DitSize
    from components.train.dit_validation import HeldOut, held_out_losses
    from tests.train.test_dit_loop import TEXT, settings

    torch.manual_seed(0)
    model = DiT(DitSize(hidden_size=64, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=32), latent_channels=4, text_width=8)
    torch.nn.init.normal_(model.patch_out.weight, std=0.1)
    passed: list[int] = []
    model.blocks[0].register_forward_hook(lambda block, given, answer: passed.append(len(answer)))
    clips = [
        HeldOut(f"held{row}", torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(row)), TEXT[row], 2.0) for row in range(3)
    ]
    return held_out_losses(settings(context_parallel=2), model, clips, context, None, sequence), passed


def velocities_and_gradients(sequence: "SequenceGroup | None", timesteps: str) -> dict[str, Tensor]:
    """What a model answers of four packed clips, and the gradients of the sum of its squares."""
    from components.models.dit import DiT
    from components.models.sizes import DitSize

    torch.manual_seed(0)
    model = DiT(DitSize(hidden_size=64, depth=2, num_heads=4, patch_size=(1, 2, 2), text_size=32), latent_channels=4, text_width=8)
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.05)
    model.sequence, model.recompute = sequence, timesteps == "of tokens"
    random = torch.Generator().manual_seed(1)
    noisy = [torch.randn(4, *shape, generator=random) for shape in PACKED]
    counts = {
        "of clips": [1] * len(PACKED),
        "of frames": [frames for frames, _, _ in PACKED],
        "of tokens": [frames * rows * columns // 4 for frames, rows, columns in PACKED],
    }
    t = [torch.rand(count, generator=random) for count in counts[timesteps]]
    text, mask = torch.randn(4, 3, 8, generator=random), torch.tensor([[True, True, False]] * 4)
    answers = model(noisy, t, text, mask, torch.tensor([2.0, 4.0, 2.0, 2.0]))
    torch.stack([answer.square().mean() for answer in answers]).sum().backward()
    found = {f"velocity {place}": answer.detach() for place, answer in enumerate(answers)}
    return found | {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def transformer(folder: Path, context: TrainContext, rare: int = 0, tokens: int | None = None, **changes: Any) -> None:
    """Trains on nine clips, the last so many of them of one frame."""
    from components.models.dit import DiT
    from components.models.sizes import DitSize
    from components.train.buckets import Filling
    from components.train.context_parallel import as_group
    from components.train.dit_batches import Encoded, dit_batches
    from components.train.dit_loop import train_dit
    from components.train.dit_validation import HeldOut
    from tests.train.test_dit_loop import TEXT, settings

    random = np.random.default_rng(0)
    latents = [random.normal(size=(4, 1 if row >= 9 - rare else 2, 4, 4)).astype(np.float16) for row in range(9)]
    texts = [random.normal(size=(3 + row % 3, 8)).astype(np.float16) for row in range(9)]
    encoded = Encoded(tuple(f"clip{row}" for row in range(9)), latents, texts, [2.0] * 9)
    chosen = settings(steps=STEPS, report_every=1, validate_every=1, checkpoint_every=3, caption_dropout=0.4, **changes)
    place = as_group(context, chosen.context_parallel)
    filling = Filling(5, tokens, packed=tokens is not None, world_size=place.world_size)
    batches, _ = dit_batches(encoded, filling, (1, 2, 2), 0, place.rank)
    torch.manual_seed(0)
    model = DiT(DitSize(hidden_size=64, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=32), latent_channels=4, text_width=8)
    held_out = [
        HeldOut(f"held{row}", torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(row)), TEXT[row], 2.0) for row in range(3)
    ]
    train_dit(chosen, model, batches, torch.zeros(2, 8), Checkpoints(folder / "checkpoints"), context, held_out=held_out)


def divided_transformer(folder: Path, context: TrainContext) -> None:
    transformer(folder, context, context_parallel=2, optimizer="muon")


def recomputed_transformer(folder: Path, context: TrainContext) -> None:
    """Computes what is inside blocks anew on the way back."""
    transformer(folder, context, recompute_activations=True)


def lone_clip_transformer(folder: Path, context: TrainContext) -> None:
    """Every third step has one clip, the only one of its shape."""
    transformer(folder, context, rare=1)


def packed_transformer(folder: Path, context: TrainContext) -> None:
    """An epoch is 4 steps of two clips and one of what is left, a single one."""
    transformer(folder, context, tokens=16)


def video_vae(folder: Path, context: TrainContext, **changes: float) -> None:
    from components.train.shares import share_of
    from components.train.vae_loop import ClipBatch, train_vae
    from tests.train.test_vae_loop import DRAWN, Distance, fresh_model, settings, some_frames

    frames = some_frames(9)

    def batches(first: int) -> Iterator[ClipBatch]:
        for step in itertools.count(first):
            rows = [(5 * step + place) % len(frames) for place in range(5)][share_of(context.rank, context.world_size)]
            yield ClipBatch(frames[rows], tuple(f"clip{row}" for row in rows), 5)

    train_vae(
        settings(steps=STEPS, **DRAWN, **changes), fresh_model(frames), batches, Checkpoints(folder / "checkpoints"), context, Distance()
    )


def judged_vae(folder: Path, context: TrainContext) -> None:
    video_vae(folder, context, adversarial_weight=0.5, perceptual_loss_weight=0.1)


def captioner(folder: Path, context: TrainContext) -> None:
    from components.openclip.load import build_coca
    from components.openclip.mosaic import Mosaic, cells
    from components.openclip.parts import part
    from components.train.captioner_batches import Labelled, captioner_batches
    from components.train.captioner_loop import train_captioner
    from components.world.render import render_clips
    from components.world.vocabulary import caption
    from tests.train.test_captioner_loop import SIZE, settings_for

    clips, scenes = render_clips("demo", 9, seed=11, height=32, width=32)
    labelled = Labelled(
        torch.stack([cells(clip, Mosaic(9, 48, 8)) for clip in clips]), tuple(caption(scene) for scene in scenes), (None,) * 9
    )
    chosen = settings_for(steps=STEPS, batch_size=5, checkpoint_every=3, turns=True, shift_share=0.1, light=0.1)
    coca = build_coca(SIZE, labelled.captions, mosaic_frames=9, mean=[0.5] * 3, std=[0.25] * 3, seed=0)
    loss = part("loss").CoCaLoss(chosen.caption_loss_weight, chosen.contrastive_loss_weight)
    batches = captioner_batches(labelled, coca, chosen, context.rank, context.world_size)
    train_captioner(chosen, coca.model, loss, batches, Checkpoints(folder / "checkpoints"), context)


TRAININGS: dict[str, Callable[[Path, TrainContext], None]] = {
    "transformer": transformer,
    "divided-transformer": divided_transformer,
    "lone-clip-transformer": lone_clip_transformer,
    "packed-transformer": packed_transformer,
    "vae": video_vae,
    "judged-vae": judged_vae,
    "sharded-transformer": transformer,
    "sharded-recomputed-transformer": recomputed_transformer,
    "sharded-vae": judged_vae,
    "captioner": captioner,
}
