"""The sections of the settings: strict pydantic models of what `pipelines.yaml` holds, with units in the names."""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import isqrt, prod
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from components.diffusion.limits import MOST_STEPS
from components.fitting import check_context_parallel, check_dit_size, check_sections, nearest
from components.models.sizes import COCA_SIZES, DIT_SIZES, VAE_SIZES, CocaSize, DitSize, VaeSize

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0.0)]
SIZES: dict[str, dict[str, Any]] = {"captioner": COCA_SIZES, "vae": VAE_SIZES, "dit": DIT_SIZES}
STORAGES = ("s3", "gs", "file")  # what pyarrow and Lance both open


def _named(sizes: dict[str, Any]) -> BeforeValidator:
    def pick(value: Any) -> Any:
        if isinstance(value, str):
            if value not in sizes:
                raise ValueError(f"`{value}` is not a size; the sizes are {', '.join(sizes)}")
            return sizes[value]
        return value

    return BeforeValidator(pick)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class World(Section):
    """The synthetic world, the footage of a run without a source."""

    preset: Literal["demo", "rich"]
    num_films: Positive
    unseen_films: Count
    scenes_per_film: Positive
    min_scene_frames: Positive
    max_scene_frames: Positive
    gradual_share: Share
    height: Positive
    width: Positive
    fps: Positive
    seed: int

    @model_validator(mode="after")
    def _scene_lengths_are_ordered(self) -> "World":
        if self.min_scene_frames > self.max_scene_frames:
            raise ValueError("`world.min_scene_frames` is above `world.max_scene_frames`; swap them")
        return self


class Footage(Section):
    """What is read from a folder, and the limits that a header must keep before anything is decoded."""

    extensions: tuple[str, ...]
    min_side_pixels: Positive
    max_side_pixels: Positive
    max_frames: Positive
    max_seconds: float
    max_file_bytes: Positive
    max_held_bytes: Positive


class Clip(Section):
    """The shapes that clips of the table have, which the VAE must be able to encode.

    Attributes:
        max_shapes: 1 gives all clips one shape (an image: one frame of it). With more they are planned from the footage, at its own
            aspects and lengths: `num_frames` is then the longest, and `height` times `width` the most pixels.
        frames_multiple, side_multiple: planned clips have 1 + a multiple of so many frames, and sides of a multiple of so many pixels.
    """

    num_frames: Positive
    height: Positive
    width: Positive
    fps: Positive
    max_clips_per_scene: Positive
    max_clips_per_video: Positive
    crf: Count
    max_shapes: Positive
    frames_multiple: Positive
    side_multiple: Positive

    @model_validator(mode="after")
    def _there_is_a_smallest_shape(self) -> "Clip":
        if self.max_shapes > 1 and self.height * self.width < self.side_multiple**2:
            raise ValueError(
                f"`clip.height` times `clip.width` holds no shape of {self.side_multiple} x {self.side_multiple} pixels, "
                "the smallest of several; hint: a lower `clip.side_multiple`, or larger clips"
            )
        return self

    def as_most(self, shapes: Iterable[tuple[int, int, int]]) -> "Clip":
        """Answers these settings with the shape that most clips of several frames have, the largest of equals; asked for one, as they are.

        Args:
            shapes: frames, height and width of each clip.
        """
        counted = Counter(shape for shape in shapes if shape[0] > 1)
        if self.max_shapes == 1 or not counted:
            return self
        num_frames, height, width = max(counted, key=lambda shape: (counted[shape], prod(shape), shape))
        return self.model_copy(update={"num_frames": num_frames, "height": height, "width": width})


class Scenes(Section):
    """PySceneDetect's detectors propose cuts (contents on its 0 to 255 scale); changes beyond small motions, 0 to 255, verify them."""

    adaptive_threshold: float
    min_content_value: float
    content_threshold: float
    cut_change: float
    cut_ratio: float
    fade_luma: float
    dissolve_change: float
    dissolve_ratio: float
    min_scene_seconds: float
    trim_gradual_seconds: float


class Curate(Section):
    """Rules that keep or drop a clip, and the split by duplicate group."""

    min_luma: float
    max_luma: float
    min_contrast: float
    min_sharpness: float
    min_motion: float
    max_motion: float
    max_repeat_share: Share
    max_duplicate_difference: float
    val_share: Share
    test_share: Share
    labelled_share: Share


class Captioner(Section):
    """Training of the OpenCLIP CoCa captioner, or a pretrained one by name."""

    pretrained: str | None
    size: Annotated[CocaSize, _named(COCA_SIZES)]
    mosaic_frames: Positive
    min_labelled: Count
    steps: Positive
    max_epochs: Positive
    batch_size: Positive
    learning_rate: float
    weight_decay: float
    warmup_steps: Count
    max_grad_norm: float
    caption_loss_weight: float
    contrastive_loss_weight: float
    turns: bool
    shift_share: Share
    light: Share
    report_every: Positive
    checkpoint_every: Positive
    retrain_when_grown_by: float
    seed: int

    @model_validator(mode="after")
    def _patches_hold_a_tile_of_every_frame(self) -> "Captioner":
        grid = isqrt(self.mosaic_frames)
        if grid**2 != self.mosaic_frames:
            nearest = f"{grid**2} and {(grid + 1) ** 2}"
            raise ValueError(f"`captioner.mosaic_frames` must be a square number, not {self.mosaic_frames}; the nearest are {nearest}")
        if self.size.patch_size % grid or self.size.image_size % self.size.patch_size:
            raise ValueError(
                f"`captioner.size`: patches of {self.size.patch_size} pixels do not hold {grid} x {grid} frames "
                f"and fill a picture of {self.size.image_size}; try {8 * grid} and {8 * grid * max(1, self.size.image_size // (8 * grid))}"
            )
        return self


class Actors(Section):
    """How many of Ray's actors a row stage runs in, and what each of them asks for."""

    num_actors: Count
    cpus_per_actor: float
    gpus_per_actor: Annotated[float, Field(ge=0.0)]

    @property
    def device(self) -> str:
        """Where an actor's network computes, for torch."""
        return "cuda" if self.gpus_per_actor else "cpu"


class Caption(Actors):
    """Recaptioning of the kept clips, and when captions are worth a warning."""

    batch_size: Positive
    max_words: Positive
    max_repeated_words: Positive
    max_same_share: Share


class Vae(Section):
    """Training of the causal video VAE, or a pretrained one of diffusers, as it is or trained further."""

    pretrained: str | None
    finetune: bool
    licence_checked: bool
    size: Annotated[VaeSize, _named(VAE_SIZES)]
    steps: Positive
    batch_size: Positive
    learning_rate: float
    weight_decay: float
    warmup_steps: Count
    ema_decay: Share
    linear_start_clips: Positive
    l1_loss_weight: float
    gradient_loss_weight: float
    wavelet_loss_weight: float
    perceptual_loss_weight: float
    perceptual_weights: str | None
    kl_weight: float
    adversarial_weight: float
    adversarial_from_step: Count
    discriminator_channels: Positive
    discriminator_learning_rate: float
    max_grad_norm: float
    adaptive_clip: bool
    skip_above: Annotated[float, Field(gt=1.0)] | None
    image_share: Share
    random_lengths: bool
    max_frame_stride: Positive
    crop_size: Positive
    min_crop_size: Positive | None
    max_downscale: Annotated[float, Field(ge=1.0)]
    mirror_share: Share
    report_every: Positive
    sample_every: Count
    checkpoint_every: Positive
    retrain_when_grown_by: float
    seed: int

    @model_validator(mode="after")
    def _what_is_trained_further_is_there(self) -> "Vae":
        if self.finetune and self.pretrained is None:
            raise ValueError("`vae.finetune` is of a pretrained VAE, and `vae.pretrained` names none; name one, or set it to false")
        return self

    @model_validator(mode="after")
    def _crops_fit_the_patches(self) -> "Vae":
        side = self.size.spatial_compression_ratio
        for name in ("crop_size", "min_crop_size"):
            value = getattr(self, name)
            if value is not None and value % side and self.pretrained is None:  # whose patches are known when it is read
                raise ValueError(
                    f"`vae.{name}` must be a multiple of {side}, the side of a patch of `vae.size`, not {value}; "
                    f"{nearest(value, side, side)}"
                )
        if self.min_crop_size is not None and self.min_crop_size > self.crop_size:
            raise ValueError(f"`vae.min_crop_size` {self.min_crop_size} is above `vae.crop_size` {self.crop_size}; swap them")
        return self

    @model_validator(mode="after")
    def _a_perceptual_loss_has_weights(self) -> "Vae":
        if self.perceptual_loss_weight and self.perceptual_weights is None:
            raise ValueError(
                f"`vae.perceptual_loss_weight` {self.perceptual_loss_weight} asks for `vae.perceptual_weights`, a folder or file of "
                "safetensors; without one set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _a_judge_has_steps(self) -> "Vae":
        if self.adversarial_weight and self.adversarial_from_step >= self.steps:
            raise ValueError(
                f"`vae.adversarial_from_step` {self.adversarial_from_step} leaves none of {self.steps} `vae.steps`; "
                "set it lower, or `vae.adversarial_weight` to 0"
            )
        return self


class Encode(Actors):
    """Latents and text embeddings cached in the clips table; evaluation generates in as many actors."""

    batch_size: Positive


class Tasks(Section):
    """How often a clip in training lets the model keep which frames; see `components.diffusion.tasks`."""

    text: Share
    first_frame: Share
    prefix: Share
    suffix: Share
    first_and_last: Share
    key_frames: Share


class TextEncoder(Section):
    """What makes of a prompt what the diffusion transformer is told: the captioner's text tower, or a pretrained one of transformers."""

    pretrained: str | None
    max_tokens: Positive
    dtype: Literal["float32", "bfloat16"]


class Dit(Section):
    """Training of the diffusion transformer by flow matching."""

    size: Annotated[DitSize, _named(DIT_SIZES)]
    steps: Positive
    batch_size: Positive
    tokens_per_batch: Positive | None
    packing: bool
    learning_rate: float
    weight_decay: float
    optimizer: Literal["adamw", "muon"]
    ema_decay: Share
    max_grad_norm: float
    adaptive_clip: bool
    skip_above: Annotated[float, Field(gt=1.0)] | None
    finetune: str | None
    lora_rank: Positive | None
    caption_dropout: Share
    tasks: Tasks
    image_share: Share
    max_epochs: Positive
    recompute_activations: bool
    compile: bool
    context_parallel: Positive
    clip_loss_weight: float
    timestep_mean: float
    timestep_std: float
    timestep_shift: AboveZero
    warmup_steps: Count
    report_every: Positive
    validate_every: Count
    sample_every: Count
    checkpoint_every: Positive
    retrain_when_grown_by: float
    seed: int

    @model_validator(mode="before")
    @classmethod
    def _adapters_are_of_a_model(cls, fields: Any) -> Any:
        """Takes the champion where there are to be adapters and no model is named."""
        if isinstance(fields, Mapping) and fields.get("lora_rank") is not None and fields.get("finetune") is None:
            return {**fields, "finetune": "champion"}
        return fields

    @model_validator(mode="after")
    def _it_can_be_built(self) -> "Dit":
        if self.finetune is None:  # else the size is that of the model it names
            check_dit_size(self.size)
            check_context_parallel(self.context_parallel, self.size, "`dit.size`")
        return self

    @model_validator(mode="after")
    def _what_is_packed_fills_a_budget(self) -> "Dit":
        if self.packing and self.tokens_per_batch is None:
            raise ValueError(
                "`dit.packing` fills a budget of tokens, and `dit.tokens_per_batch` sets none; set one, or `dit.packing` to false"
            )
        return self

    @model_validator(mode="after")
    def _some_task_has_a_share(self) -> "Dit":
        if not any(dict(self.tasks).values()):
            raise ValueError("`dit.tasks` gives no task a share; hint: `--set dit.tasks.text=1` trains on text alone")
        return self


class Generate(Section):
    """Defaults of sampling."""

    num_inference_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    guidance_scale: float
    guidance_interval: tuple[Share, Share]
    guidance_rescale: Share
    negative_prompt: str
    timestep_shift: AboveZero
    sampler: Literal["euler", "heun", "dpmpp_2m", "unipc"]
    step_cache: Annotated[float, Field(ge=0.0)] | Literal["calibrated"] | None

    @model_validator(mode="after")
    def _the_interval_rises(self) -> "Generate":
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(
                f"`generate.guidance_interval` goes from {low} to {high}; it is [low, high], of t from 0, the clip, to 1, noise"
            )
        return self


class Evaluate(Section):
    """What is generated and measured before a promotion."""

    num_seen_prompts: Positive
    num_unseen_prompts: Count
    num_real_clips: Positive
    num_ranked_clips: Positive
    batch_size: Positive
    min_motion: float
    bootstrap_samples: Positive
    seed: int


class Gate(Section):
    """Floors of the promotion gate; `margin` is how much below the champion still counts as equal."""

    min_caption_field: Share
    min_vae_psnr: float
    min_vae_reader: Share
    min_vae_ssim: float
    max_vae_difference: float
    min_vae_seam_psnr: float
    max_vae_first_frame_bias: float
    max_vae_latents_mean: float
    min_vae_latents_std: Annotated[float, Field(gt=0.0, le=1.0)]
    min_following: Share
    min_above_shuffled: float
    min_moving_share: Share
    min_temporal: float
    max_repeat_share: Share
    min_ranked_share: Share
    margin: float
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)]
    bootstrap_samples: Positive


class Cluster(Section):
    """Where stages and Ray run; addresses come from the environment, never from here.

    Attributes:
        sharded: several workers share out the parameters, averages and optimiser states of the VAE and the transformer (FSDP2)
            instead of each keeping all of them (DDP). Worth it when a model and its states fill a large part of one GPU's memory;
            below that DDP sends less and is faster.
    """

    stages_in: Literal["process", "job", "kubernetes"]
    num_workers: Positive
    min_workers: Positive | None
    max_failures: Count
    cpus_per_worker: Positive
    threads: Positive
    use_gpu: bool
    sharded: bool
    num_cpus: Count
    object_store_bytes: Positive
    price_per_core_hour: Annotated[float, Field(ge=0.0)] | None
    price_per_gpu_hour: Annotated[float, Field(ge=0.0)] | None
    storage: str | None

    @property
    def fewest_workers(self) -> int:
        """What a training goes on with at least; all of them where nothing is set."""
        return self.min_workers or self.num_workers

    @model_validator(mode="after")
    def _workers_are_ordered(self) -> "Cluster":
        if self.fewest_workers > self.num_workers:
            raise ValueError(f"`cluster.min_workers` {self.min_workers} is more than `cluster.num_workers` {self.num_workers}")
        return self

    @model_validator(mode="after")
    def _storage_is_a_folder_that_all_can_open(self) -> "Cluster":
        if self.storage is not None:
            parts = urlsplit(self.storage)
            where = "hint: `s3://BUCKET/FOLDER`, or null for the project's own folder"
            if parts.scheme not in STORAGES:
                raise ValueError(f"`cluster.storage` = `{self.storage}` is none of {', '.join(STORAGES)}; {where}")
            if not (parts.netloc or (parts.scheme == "file" and parts.path.strip("/"))) or (parts.scheme == "file" and parts.netloc):
                raise ValueError(f"`cluster.storage` = `{self.storage}` names no folder; {where}")
            if "@" in parts.netloc or parts.query or parts.fragment:
                raise ValueError("`cluster.storage` holds more than a place; hint: credentials and addresses come from the environment")
        return self


class Serving(Section):
    """The process that takes up scheduled runs, and how often it looks for new footage."""

    max_runs: Positive
    watch_every_seconds: AboveZero


class Config(Section):
    """All settings of one run, resolved."""

    root: str
    world: World
    footage: Footage
    clip: Clip
    scenes: Scenes
    curate: Curate
    captioner: Captioner
    caption: Caption
    vae: Vae
    text_encoder: TextEncoder
    encode: Encode
    dit: Dit
    generate: Generate
    evaluate: Evaluate
    gate: Gate
    cluster: Cluster
    serving: Serving

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> "Config":
        check_sections(self)
        return self
