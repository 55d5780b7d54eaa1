"""Columns of the three Lance tables: videos, clips and samples. Missing is null."""

import lance
import pyarrow as pa

SCENE = pa.struct(
    [
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("first_frame", pa.int32()),
        ("last_frame", pa.int32()),
        ("transition", pa.string()),
    ]
)

VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),  # sha256 of the file's bytes
        pa.field("uri", pa.string()),
        pa.field("places", pa.list_(pa.string())),  # every path that holds this content
        pa.field("stat", pa.string()),  # size and modification time of the file at uri when it was read
        pa.field("status", pa.string()),  # accepted, rejected, missing or forgotten
        pa.field("reason", pa.string()),
        pa.field("notes", pa.list_(pa.string())),  # what was changed or dropped on the way in, audio for one
        pa.field("kind", pa.string()),  # video or image
        pa.field("container", pa.string()),
        pa.field("codec", pa.string()),
        pa.field("pix_fmt", pa.string()),
        pa.field("width", pa.int32()),  # as displayed
        pa.field("height", pa.int32()),
        pa.field("rotation", pa.int32()),
        pa.field("fps", pa.string()),  # a fraction, "30000/1001"
        pa.field("num_frames", pa.int32()),  # decoded
        pa.field("declared_frames", pa.int32()),
        pa.field("duration_seconds", pa.float64()),
        pa.field("num_bytes", pa.int64()),
        pa.field("has_audio", pa.bool_()),
        pa.field("source", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("rights", pa.string()),
        pa.field("label_caption", pa.string()),  # what the manifest says of the whole file
        pa.field("label_by", pa.string()),
        pa.field("scenes", pa.list_(SCENE)),
        pa.field("num_clips", pa.int32()),
        pa.field("ingested_by", pa.string()),
    ]
)

CLIPS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string()),
        pa.field("scene_index", pa.int32()),
        pa.field("start_seconds", pa.float64()),
        pa.field("end_seconds", pa.float64()),
        pa.field("crop", pa.list_(pa.int32())),  # x, y, width, height in the displayed source frame
        pa.field("kind", pa.string()),
        pa.field("num_frames", pa.int32()),
        pa.field("fps", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        lance.blob_field("video"),
        pa.field("clip_by", pa.string()),
        pa.field("source", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("rights", pa.string()),
        pa.field("label_caption", pa.string()),  # lent by a manifest or a sidecar
        pa.field("label_by", pa.string()),  # manifest:<digest> or sidecar:<digest>
        pa.field("lent", pa.bool_()),  # the label is lent to the captioner's training and is the caption
        pa.field("truth", pa.string()),  # JSON fields of the synthetic world; evaluation alone reads it
        pa.field("luma", pa.float32()),
        pa.field("contrast", pa.float32()),
        pa.field("sharpness", pa.float32()),
        pa.field("motion", pa.float32()),  # mean optical flow, short sides a second
        pa.field("repeat_share", pa.float32()),
        pa.field("perceptual_hash", pa.list_(pa.int64())),
        pa.field("measured_by", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("keep", pa.bool_()),
        pa.field("drop_reason", pa.string()),
        pa.field("split", pa.string()),  # train, val or test
        pa.field("curated_by", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("caption_score", pa.float32()),  # mean log-probability of its tokens; null for a lent caption
        pa.field("caption_by", pa.string()),
        pa.field("latents", pa.list_(pa.float16())),  # (C, T, H, W), normalised by channel
        pa.field("latents_shape", pa.list_(pa.int32())),
        pa.field("latents_by", pa.string()),
        pa.field("text_embeds", pa.list_(pa.float16())),  # (S, C), S its tokens without padding
        pa.field("text_shape", pa.list_(pa.int32())),
        pa.field("text_embeds_by", pa.string()),
        pa.field("quarantine", pa.string()),  # stage, step and why a training skipped a step for it; it is left out from then on
    ]
)

SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("rewritten", pa.string()),
        pa.field("group", pa.string()),  # seen, unseen or prompt
        pa.field("truth", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("model", pa.string()),  # digest of the text-to-video weights
        pa.field("num_frames", pa.int32()),
        pa.field("fps", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        lance.blob_field("video"),
        pa.field("scores", pa.string()),  # JSON
        pa.field("sampled_by", pa.string()),
    ]
)
