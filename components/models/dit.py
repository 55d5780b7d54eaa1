"""The diffusion transformer: spacetime patches of latents in, velocity out, told a timestep a token and the prompt.

Source: Peebles and Xie, DiT (arXiv 2212.09748); Wan (arXiv 2503.20314), section 4.2, for the shared time layers with a bias a
block; Li and He, Just image Transformers (arXiv 2511.13720), for the network that names the clip where velocity is asked for.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.models.attention import Attention, FeedForward, Heads
from components.models.linear import Linear
from components.models.packing import Run, join, parts_of, runs_of_batches
from components.models.patches import pad_to_patches, patchify, token_grid, unpatchify
from components.models.precision import round_weights
from components.models.rotary import token_angles, token_places
from components.models.sequence_parallel import SequenceGroup, Share
from components.models.sizes import DitSize
from components.models.step_cache import StepCache
from components.models.text_refiner import KeptText, TextRefiner, masked_mean
from components.models.weights import load_json, load_tensors

TIME_FREQUENCIES = 128
LONG_CLIP = 512  # tokens, from which on each clip has a norm of its own, which scales and shifts in the same pass
KEPT_TEXT = 8  # times a text's tokens: beyond it, keys and values of the text are less than a fiftieth of the work, and not kept
KEPT_BYTES = 2**30  # nor are they where they would take more than that
MIN_T = 0.05  # below it the distance to the clip is divided by this instead of t
VARIANTS = 64  # of a compiled block: packs of other sizes and numbers, with a mask over text and without
NUM_MODULATIONS = 6  # shift, scale and gate, of attention and of the feed-forward


class Told(NamedTuple):
    """What every block is told beside the packed tokens (N, D) themselves.

    Attributes:
        runs: where clips lie in the sequence.
        modulations: of each run, (clips, 1 or frames or L, 6, D).
        cosines, sines: (N, 1, head_size / 2), of the tokens' rotary angles.
        text: (clips, S, C), or the keys and values that a block makes of it; text_mask: (clips, S), None: all of it is text.
        share: of all tokens, which these are; None: there are no others.
    """

    runs: Sequence[Run]
    modulations: Sequence[Tensor]
    cosines: Tensor
    sines: Tensor
    text: Tensor | Heads
    text_mask: Tensor | None
    share: Share | None = None


class DiT(nn.Module):
    """A transformer over patches of latents of any number of frames, height and width; one frame is a clip of its own.

    The network says which clip it sees in the noise; the velocity that it answers leads there. A clip has far fewer degrees of
    freedom than noise has, so this needs a narrower network than to carry the noise through.

    Clips of several sizes are packed into one sequence without padding, where each sees itself alone; a batch of one size is the
    simplest pack.

    Args:
        size: width, depth and patches.
        latent_channels: of the latents.
        text_width: of the text encoder's embeddings.
    """

    def __init__(self, size: DitSize, latent_channels: int, text_width: int) -> None:
        super().__init__()
        self.size, self.latent_channels, self.text_width = size, latent_channels, text_width
        self.sequence: SequenceGroup | None = None  # workers that share out the tokens; None: all are here
        self.recompute = False  # what is inside blocks on the way back in place of keeping it: a third more work, far less memory
        patch = math.prod(size.patch_size) * latent_channels
        self.patch_in = Linear(patch, size.hidden_size)
        self.text_refiner = TextRefiner(text_width, size.text_size, size.refiner_depth)
        self.time_in = nn.Sequential(Linear(2 * TIME_FREQUENCIES, size.hidden_size), nn.SiLU(), Linear(size.hidden_size, size.hidden_size))
        self.text_in = Linear(size.text_size, size.hidden_size)
        self.modulation = Linear(size.hidden_size, NUM_MODULATIONS * size.hidden_size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.modulation_out = Linear(size.hidden_size, 2 * size.hidden_size)
        self.patch_out = Linear(size.hidden_size, patch)
        for layer in (self.modulation, self.modulation_out, self.patch_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Makes fused code of the blocks, when each size of pack first comes; names and weights stay."""
        import torch._dynamo  # takes seconds

        torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)  # beyond it a block is eager again
        for block in self.blocks:
            block.compile(backend=backend)

    @overload
    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        latents_fps: Tensor | float,
        step_cache: StepCache | None = None,
        kept_text: KeptText | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        noisy: Sequence[Tensor],
        t: Sequence[Tensor],
        text_embeds: Tensor,
        text_mask: Tensor | None,
        latents_fps: Tensor | float,
    ) -> list[Tensor]: ...

    def forward(
        self,
        noisy: Tensor | Sequence[Tensor],
        t: Tensor | Sequence[Tensor],
        text_embeds: Tensor,
        text_mask: Tensor | None,
        latents_fps: Tensor | float,
        step_cache: StepCache | None = None,
        kept_text: KeptText | None = None,
    ) -> Tensor | list[Tensor]:
        """Answers the velocity, noise - latents, of a batch of clips of one size, or of clips of several sizes, packed.

        Args:
            noisy: (B, C, T, H, W), latents on their way to noise; or (C, T, H, W) of each clip, those of one size best side by side.
            t: (B,), or with a timestep for each frame of tokens (B, T / pt), or for each token (B, L), in the order of `patchify`; or the
                same of each clip, 0-d, (T / pt,) or (L,).
            text_embeds: (B, S, text_width).
            text_mask: (B, S), True on the text's own tokens; None: all are, which is faster than to be told so (`mask_of_padding`).
            latents_fps: latent frames a second, (B,) or the same for all.
            step_cache: what the blocks said at earlier steps of sampling this batch of one size, to leave them out where it will do.
            kept_text: what was made of these texts at an earlier step, filled by the first; None: they are read anew.

        Returns:
            (B, C, T, H, W), or (C, T, H, W) of each clip.
        """
        if isinstance(noisy, Tensor) and isinstance(t, Tensor):
            return self._velocities([noisy], [t.view(len(noisy), -1)], text_embeds, text_mask, latents_fps, step_cache, kept_text)[0]
        same = [list(group) for _, group in groupby(range(len(noisy)), key=lambda place: (noisy[place].shape, t[place].numel()))]
        stacked = [torch.stack([noisy[place] for place in group]) for group in same]
        times = [torch.stack([t[place].view(-1) for place in group]) for group in same]
        answers = self._velocities(stacked, times, text_embeds, text_mask, latents_fps)
        return [velocity for answer in answers for velocity in answer]

    def _velocities(
        self,
        noisy: list[Tensor],
        t: list[Tensor],
        text_embeds: Tensor,
        text_mask: Tensor | None,
        latents_fps: Tensor | float,
        step_cache: StepCache | None = None,
        kept_text: KeptText | None = None,
    ) -> list[Tensor]:
        """Answers the velocities of batches (B_i, C, T, H, W) at timesteps (B_i, 1 or frames or L), in one sequence of all their tokens."""
        patch_size = self.size.patch_size
        padded = [pad_to_patches(clips, patch_size) for clips in noisy]
        grids = [token_grid(clips.shape[2:], patch_size) for clips in padded]
        runs = runs_of_batches([len(clips) for clips in noisy], [math.prod(grid) for grid in grids])
        if not isinstance(latents_fps, Tensor):
            latents_fps = torch.full((), latents_fps, device=text_embeds.device)  # made there: to send it would wait for the step before
        fps = latents_fps.to(text_embeds.device, torch.float32).expand(len(text_embeds))
        places = join([token_places(grid, run.of_clips(patch_size[0] / fps)) for run, grid in zip(runs, grids, strict=True)])  # (N, 3)
        tokens, own, times = join([patchify(clips, patch_size) for clips in padded]), runs, t  # (N, C * pt * ph * pw)
        share = None if self.sequence is None else self.sequence.share(runs, grids, tokens.device)
        if share is not None:  # N is from here on what this worker has
            tokens, places, own, times = share.of(tokens), share.of(places), share.own, share.timesteps(t, grids)
        x = self.patch_in(tokens)  # (N, D)
        x = x + positions(places, self.size.hidden_size).to(x.dtype)
        angles = token_angles(places, self.size.hidden_size // self.size.num_heads)[:, None]  # (N, 1, head_size / 2)
        cosines, sines = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        del tokens, places, angles  # of a long clip they are large, and the blocks come now
        meant, texts = self._read(text_embeds, text_mask, max(run.length for run in runs), kept_text)
        conditions = [self._condition(each, run.of_clips(meant)) for run, each in zip(own, times, strict=True)]  # (B_i, n_i, D) each
        modulations = [self.modulation(condition).unflatten(-1, (NUM_MODULATIONS, -1)) for condition in conditions]
        told = Told(own, modulations, cosines, sines, texts[0], text_mask, share)
        if step_cache is not None:
            x = self._cached(step_cache, t[0].amax(dim=1), x, told, texts)
        else:
            for block, text in zip(self.blocks, texts, strict=True):  # here, where nothing holds on to what the first of them was given
                x = self._through(block, x, told._replace(text=text))
        outs = [self.modulation_out(condition).to(x.dtype).chunk(2, dim=-1) for condition in conditions]
        x = modulate(x, own, [shift for shift, _ in outs], [scale for _, scale in outs])
        patches = self.patch_out(x)  # (N, C * pt * ph * pw)
        patches = patches if share is None else share.joined(patches)
        answers = []
        for run, clips, seen, grid, of_run in zip(runs, noisy, padded, grids, t, strict=True):
            frames, height, width = clips.shape[2:]
            clip = unpatchify(run.of_tokens(patches), grid, patch_size)
            each = of_run.repeat_interleave(run.length // of_run.shape[1], dim=1)  # (B_i, L)
            away = unpatchify(each.clamp(min=MIN_T)[..., None].expand(*each.shape, patches.shape[-1]), grid, patch_size)
            answers.append(((seen - clip) / away)[:, :, :frames, :height, :width])
        return answers

    def _read(
        self, text_embeds: Tensor, text_mask: Tensor | None, longest: int, kept: KeptText | None
    ) -> tuple[Tensor, Sequence[Tensor | Heads]]:
        """Answers what texts (clips, S, text_width) mean as a whole, (clips, 1, D), and what each block attends to.

        Args:
            longest: tokens of the longest clip.
        """
        if kept is not None and kept.meant is not None:
            return kept.meant, kept.of_blocks
        text = self.text_refiner(text_embeds, text_mask)  # (clips, S, text_size)
        meant = self.text_in(masked_mean(text, text_mask))[:, None]
        texts: list[Tensor | Heads] = [text] * len(self.blocks)
        if kept is not None:
            held = text.shape[0] * text.shape[1] * 2 * self.size.hidden_size * len(self.blocks) * text.element_size()
            if longest <= KEPT_TEXT * text.shape[1] and held <= KEPT_BYTES:
                heads = [block.text_attention.keys_values(text) for block in self.blocks if isinstance(block, Block)]
                texts = [(key, value.contiguous()) for key, value in heads]  # without the product that values are a part of
            kept.meant, kept.of_blocks = meant, texts
        return meant, texts

    def _through(self, block: nn.Module, x: Tensor, told: Told) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(block, x, told, use_reentrant=False)
            return recomputed
        answer: Tensor = block(x, told)
        return answer

    def _cached(self, cache: StepCache, t: Tensor, x: Tensor, told: Told, texts: Sequence[Tensor | Heads]) -> Tensor:
        """Answers what all blocks, each with its text, do, or what a cache has instead, of one run of clips."""
        (run,), (modulation,), first = told.runs, told.modulations, self.blocks[0]
        assert isinstance(first, Block)

        def through(rows: Tensor) -> Tensor:
            few, tokens, of_few = run, x, told
            if len(rows) < run.clips:
                few = Run(0, len(rows), 0, run.length)
                tokens, cosine, sine = (run.of_tokens(packed)[rows].flatten(0, 1) for packed in (x, told.cosines, told.sines))
                mask = None if told.text_mask is None else told.text_mask[rows]
                of_few = Told([few], [modulation[rows]], cosine, sine, told.text, mask)
            last: Tensor | Heads | None = None
            for block, text in zip(self.blocks, texts, strict=True):
                if text is not last:  # blocks may share one
                    last, of_few = text, of_few._replace(text=text if few is run else _rows_of(text, rows))
                tokens = self._through(block, tokens, of_few)
            return few.of_tokens(tokens)

        entering = run.of_tokens(first.entering(x, told))
        return cache(run.of_tokens(x), entering, t, through).flatten(0, 1)

    def _condition(self, t: Tensor, meant: Tensor) -> Tensor:
        """Answers what each timestep (B, n) and the text (B, 1, D) say to all blocks, (B, n, D)."""
        return F.silu(self.time_in(frequencies(1000.0 * t, TIME_FREQUENCIES)) + meant)


class Block(nn.Module):
    """Self-attention over all of space and time, a look at the text, and a feed-forward, each added to what was there."""

    def __init__(self, size: DitSize) -> None:
        super().__init__()
        self.attention = Attention(size.hidden_size, size.num_heads)
        self.text_norm = nn.LayerNorm(size.hidden_size)
        self.text_attention = Attention(size.hidden_size, size.num_heads, size.text_size)
        self.feed_forward = FeedForward(size.hidden_size, round(size.mlp_ratio * size.hidden_size))
        bias = torch.zeros(NUM_MODULATIONS, size.hidden_size)
        bias[2] = bias[5] = 1.0  # the gates start open: the projections behind them start small
        self.modulation_bias = nn.Parameter(bias)
        for layer in (self.attention.out, self.text_attention.out, self.feed_forward.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, told: Told) -> Tensor:
        """Answers what packed tokens x (N, D) become."""
        runs = told.runs
        shifts, scales, gates, ff_shifts, ff_scales, ff_gates = self._modulated(told, x.dtype)
        seen = self.attention.within_clips(modulate(x, runs, shifts, scales), runs, told.cosines, told.sines, told.share)
        x = gated(x, runs, gates, seen)
        normal = layer_norm(x, self.text_norm.weight, self.text_norm.bias)
        x = x + self.text_attention.to_text(normal, runs, told.text, told.text_mask)
        return gated(x, runs, ff_gates, self.feed_forward(modulate(x, runs, ff_shifts, ff_scales)))

    def entering(self, x: Tensor, told: Told) -> Tensor:
        """Answers packed tokens (N, D) as the self-attention sees them."""
        shifts, scales, *_ = self._modulated(told, x.dtype)
        return modulate(x, told.runs, shifts, scales)

    def _modulated(self, told: Told, dtype: torch.dtype) -> Sequence[tuple[Tensor, ...]]:
        """Answers shifts, scales and gates, of attention and of the feed-forward, each of each run, (clips, n, D)."""
        own = [(modulation + self.modulation_bias).to(dtype).unbind(dim=2) for modulation in told.modulations]
        return list(zip(*own, strict=True))


def modulate(x: Tensor, runs: Sequence[Run], shifts: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
    """Normalises packed tokens (N, D), times 1 + the scale of their run, plus its shift.

    Args:
        shifts, scales: of each run, (clips, n, D): a timestep holds for the whole clip, for a frame or for a token.
    """
    changed: list[Tensor] = []
    for part, shift, scale in zip(parts_of(x, runs), shifts, scales, strict=True):
        if shift.shape[1] == 1 and part.shape[1] >= LONG_CLIP and not torch.compiler.is_compiling():  # which fuses what is below
            clips = part.unbind() if len(part) > 1 else (part.squeeze(0),)
            changed += [layer_norm(*clip) for clip in zip(clips, 1.0 + scale[:, 0], shift[:, 0], strict=True)]
        else:
            normal = _by_timestep(layer_norm(part), shift)
            changed.append(torch.addcmul(shift[:, :, None], normal, 1.0 + scale[:, :, None]).flatten(0, 2))
    return changed[0] if len(changed) == 1 else torch.cat(changed)


def gated(x: Tensor, runs: Sequence[Run], gates: Sequence[Tensor], added: Tensor) -> Tensor:
    """Adds to packed tokens (N, D) others, times the gate of their run, (clips, n, D)."""
    parts = zip(parts_of(x, runs), gates, parts_of(added, runs), strict=True)
    sums = [torch.addcmul(_by_timestep(part, gate), gate[:, :, None], _by_timestep(more, gate)).flatten(1, 2) for part, gate, more in parts]
    return join(sums)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """A layer norm in the precision of its input: mixed precision would keep a copy of it in float32, in twice the memory."""
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:], None if weight is None else weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _rows_of(text: Tensor | Heads, rows: Tensor) -> Tensor | Heads:
    """Answers some clips' part of a text (clips, S, C), or of its keys and values."""
    return (text[0][rows], text[1][rows]) if isinstance(text, tuple) else text[rows]


def _by_timestep(part: Tensor, told: Tensor) -> Tensor:
    """Answers a run's tokens (clips, L, D) by the timesteps (clips, n, D) that they share, (clips, n, L / n, D)."""
    return part.unflatten(1, (told.shape[1], -1))


def frequencies(places: Tensor, count: int, longest: float = 10000.0) -> Tensor:
    """Answers sines and cosines of places at `count` frequencies from 1 down to 1 / longest: (...) -> (..., 2 * count)."""
    rates = torch.exp(-math.log(longest) * torch.arange(count, device=places.device, dtype=torch.float32) / count)
    angles = places.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def positions(places: Tensor, hidden_size: int) -> Tensor:
    """Answers a sine-cosine code of each token's place, (N, 3) -> (N, D).

    Rotary positions alone tell tokens of pure noise apart only by what others make of them, which is learned late.
    """
    count = hidden_size // 6  # frequencies an axis; what does not divide stays zero
    code = frequencies(places, count, longest=100.0).flatten(1)
    return F.pad(code, (0, hidden_size - code.shape[-1]))


def load_dit(folder: Path, device: str = "cpu") -> tuple[DiT, dict[str, Any]]:
    """Loads a diffusion transformer for inference and what was noted beside it; for a GPU with its weights rounded to bfloat16.

    Raises:
        DamagedFolderError: a file is missing or is not the one that was written.
    """
    notes = load_json(Path(folder), "dit")
    model = DiT(dit_size(notes["size"]), notes["latent_channels"], notes["text_width"])
    model.load_state_dict(load_tensors(Path(folder), "dit"))
    if torch.device(device).type == "cuda":
        round_weights(model)
    return model.to(device).eval().requires_grad_(False), notes


def dit_size(fields: Mapping[str, Any]) -> DitSize:
    """Answers a size from its JSON."""
    frames, rows, columns = fields["patch_size"]
    return DitSize(**{**fields, "patch_size": (frames, rows, columns)})
