"""Sizes of Kinora's networks: frozen stdlib dataclasses, and the named ones that `pipelines.yaml` refers to."""

from dataclasses import dataclass

LEAST_HEAD_SIZE = 6  # that turns along three axes
TEXT_HEAD_SIZE = 32  # of the text's refiner, about


@dataclass(frozen=True)
class VaeSize:
    """The shape of a causal video VAE: (1 + T, H, W) pixels to (1 + T / rt, H / rs, W / rs) latents.

    Most of the net is in the decoder: `hidden_channels` and `num_blocks` are its own.
    """

    latent_channels: int
    hidden_channels: int
    num_blocks: int
    encoder_channels: int
    encoder_blocks: int
    temporal_compression_ratio: int = 4
    spatial_compression_ratio: int = 8


@dataclass(frozen=True)
class DitSize:
    """The shape of a diffusion transformer over spacetime latent patches."""

    hidden_size: int
    depth: int
    num_heads: int
    patch_size: tuple[int, int, int]
    mlp_ratio: float = 4.0
    text_size: int = 128
    refiner_depth: int = 1


@dataclass(frozen=True)
class CocaSize:
    """The shape of an OpenCLIP CoCa captioner; image_size is the side of the square mosaic.

    context_length and vocab_size are ceilings: a model gets what its captions need.
    """

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    decoder_layers: int
    context_length: int
    vocab_size: int
    head_width: int = 32
    pool_queries: int = 16


VAE_SIZES = {
    "tiny": VaeSize(latent_channels=16, hidden_channels=32, num_blocks=1, encoder_channels=32, encoder_blocks=1),
    "demo": VaeSize(latent_channels=16, hidden_channels=128, num_blocks=2, encoder_channels=96, encoder_blocks=1),
    "base": VaeSize(latent_channels=16, hidden_channels=512, num_blocks=5, encoder_channels=256, encoder_blocks=3),
    "long": VaeSize(32, 512, 5, 256, 3, temporal_compression_ratio=8),  # half the latents of `base`, for long clips
    "wide": VaeSize(48, 768, 5, 384, 3, spatial_compression_ratio=16),  # a quarter of them, for large pictures
}
DIT_SIZES = {
    "tiny": DitSize(hidden_size=64, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=64),
    "demo": DitSize(hidden_size=512, depth=4, num_heads=8, patch_size=(1, 8, 8)),
    # those of Wan 2.1 (1.3b, 14b) and Wan 2.2 (5b, at latents of 16x16x4; 14b), whose text encoder sees both ways; of one that sees
    # backwards only, as a captioner's tower does, a refiner makes more (`dit.size.refiner_depth`)
    "1.3b": DitSize(1536, 30, 12, (1, 2, 2), mlp_ratio=8960 / 1536, text_size=1536, refiner_depth=0),
    "5b": DitSize(3072, 30, 24, (1, 2, 2), mlp_ratio=14336 / 3072, text_size=3072, refiner_depth=0),
    "14b": DitSize(5120, 40, 40, (1, 2, 2), mlp_ratio=13824 / 5120, text_size=5120, refiner_depth=0),
}
COCA_SIZES = {
    "tiny": CocaSize(64, 48, 24, 64, 2, 64, 2, 1, 64, 1024),
    "demo": CocaSize(128, 96, 24, 128, 4, 128, 2, 1, 64, 1024),
    "base": CocaSize(512, 288, 24, 768, 12, 512, 12, 12, 76, 49408, 64, 256),
}
