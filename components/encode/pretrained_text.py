"""Text encoders of transformers behind the interface of `components.encode.text`: the encoders of T5, mT5 and UMT5 models.

One is taken once, of the hub or of a folder as transformers saves it, and kept in a folder of ours that needs neither any more.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.models.weights import EMPTY_PROMPT, load_json, load_tensors, save_folder

NAME = "text_encoder"  # of its files
FAMILIES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}  # by what config.json calls a model
PLACES = ("", "text_encoder", "text_encoder_2", "text_encoder_3")  # below a checkpoint, of a text encoder; its tokenizer is beside it
WORDS = ("tokenizer.json", "spiece.model")  # of a tokenizer
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
NOT_OF_WEIGHTS = ("_name_or_path", "transformers_version", "dtype", "architectures")  # of a config


class PretrainedTextError(ValueError):
    """A text encoder of transformers that cannot be had; the message is one sentence with the way out."""


@dataclass(frozen=True)
class PretrainedText:
    """A text encoder of transformers.

    Attributes:
        model: of transformers, with the encoder alone.
        tokenizer: of tokenizers, which cuts texts to `max_tokens` and pads them to the batch's longest.
    """

    model: Any
    tokenizer: Any
    max_tokens: int

    @property
    def width(self) -> int:
        return int(self.model.config.d_model)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encodes texts; an empty one is its end mark. See `components.encode.text.TextEncoder`."""
        told = self.tokenizer.encode_batch(list(texts))
        device = self.model.device
        tokens = torch.tensor([one.ids for one in told], device=device)  # (B, S)
        mask = torch.tensor([one.attention_mask for one in told], device=device)
        with torch.inference_mode():
            embeds = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()  # (B, S, C)
        return embeds * mask[..., None], mask.bool()

    def cut(self, text: str) -> tuple[str, str]:
        """Answers what of a text is encoded, and the end that `max_tokens` leaves out."""
        told = self.tokenizer.encode(text)
        if not told.overflowing:
            return text, ""
        end = max(stop for _, stop in told.offsets)
        return text[:end].strip(), text[end:].strip()


def take(source: str, max_tokens: int, dtype: str) -> PretrainedText:
    """Reads the text encoder of a checkpoint, of a folder as transformers or diffusers saves it, or of the hub.

    Args:
        dtype: of torch, by name, in which its weights are kept and used.

    Raises:
        PretrainedTextError: it is not there, is of another kind, or its weights are not safetensors or not of its shape.
    """
    library = _transformers()
    below, family = _place_of(source, library)
    try:
        model, told = getattr(library, FAMILIES[family]).from_pretrained(
            source, subfolder=below, use_safetensors=True, output_loading_info=True, dtype=getattr(torch, dtype)
        )
    except OSError as error:
        raise PretrainedTextError(
            f"the weights of `{source}` cannot be had as safetensors ({_first_line(error)}); hint: a folder with model.safetensors, "
            "or once a network"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise _of_another_shape(source, _first_line(error)) from error
    if wrong := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        raise _of_another_shape(source, f"`{wrong[0]}` does not fit")
    return _ready(model, _tokenizer_of(source, below, library), max_tokens)


def save_pretrained_text(folder: Path, text: PretrainedText, meta: Mapping[str, Any]) -> str:
    """Writes a text encoder with its tokenizer and what it makes of no words, and answers the folder's digest.

    Args:
        meta: JSON values to keep beside what it is built from: where it came from.
    """
    config = {name: value for name, value in text.model.config.to_dict().items() if name not in NOT_OF_WEIGHTS}
    embeds, mask = text([""])
    facts = {"family": config["model_type"], "config": config, "text_width": text.width, "max_tokens": text.max_tokens}
    tensors = {NAME: _untied(text.model), EMPTY_PROMPT: {"text_embeds": embeds[0][mask[0]]}}
    return save_folder(folder, tensors, {NAME: {**meta, **facts}, "tokenizer": json.loads(text.tokenizer.to_str())})


def load_pretrained_text(folder: Path, device: str = "cpu") -> PretrainedText:
    """Reads what `save_pretrained_text` wrote.

    Raises:
        PretrainedTextError: transformers is not installed.
        DamagedFolderError: a file is missing or is not the one that was written.
    """
    library, noted = _transformers(), load_json(folder, NAME)
    from tokenizers import Tokenizer

    kind = getattr(library, FAMILIES[noted["family"]])
    with torch.device("meta"):  # billions of random numbers would take longer than to read the right ones
        model = kind(kind.config_class.from_dict(noted["config"]))
    told = model.load_state_dict(load_tensors(folder, NAME, device), strict=False, assign=True)
    model.tie_weights()
    lacking = [name for name, value in model.state_dict().items() if value.is_meta]
    if lacking or told.unexpected_keys:
        raise PretrainedTextError(
            f"the installed transformers builds another {noted['family']} than `{folder}` holds; hint: `{_install()}`"
        )
    return _ready(model, Tokenizer.from_str(json.dumps(load_json(folder, "tokenizer"))), noted["max_tokens"])


def _ready(model: Any, tokenizer: Any, max_tokens: int) -> PretrainedText:
    pad = model.config.pad_token_id
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad))
    return PretrainedText(model.eval().requires_grad_(False), tokenizer, max_tokens)


def _untied(model: Any) -> dict[str, Tensor]:
    """Answers a model's tensors, one that goes by two names once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict().items():
        found.setdefault(value.data_ptr(), (name, value))
    return dict(found.values())


def _place_of(source: str, library: Any) -> tuple[str, str]:
    """Answers in which folder below a checkpoint a text encoder is that can be used, and of which family."""
    folder = Path(source)
    if not folder.is_dir() and not HUB_ID.fullmatch(source):
        raise PretrainedTextError(
            f"the text encoder `{source}` is not there; hint: a folder as transformers saves it, or an id of the hub, OWNER/NAME"
        )
    found, why = [], None
    for below in PLACES:
        try:
            config, _ = library.PreTrainedConfig.get_config_dict(source, subfolder=below)
        except OSError as error:
            why = why or error
            continue
        family = config.get("model_type")
        if family in FAMILIES:
            if folder.is_dir():
                _check_safetensors(folder / below)
            return below, family
        if config:
            found.append(str(family))
    if found:
        raise PretrainedTextError(f"`{source}` is a {found[0]}, which is no text encoder that can be used; there are {', '.join(FAMILIES)}")
    if folder.is_dir():
        raise PretrainedTextError(
            f"`{source}` has no config.json; hint: a folder as transformers saves it, or one with such a folder below"
        )
    raise PretrainedTextError(
        f"`{source}` cannot be fetched ({_first_line(why)}); hint: run once with a network, or name a folder as transformers saves it"
    ) from why


def _check_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    found = next((path.name for pattern in ("*.bin", "*.h5", "*.msgpack") for path in sorted(folder.glob(pattern))), "no weights")
    raise PretrainedTextError(
        f"`{folder}` has {found} and no safetensors, and nothing is unpickled here; "
        "hint: `save_pretrained` of transformers writes safetensors"
    )


def _tokenizer_of(source: str, below: str, library: Any) -> Any:
    """Reads the tokenizer beside a text encoder: in the same folder, or in one of its own."""
    why: Exception | None = None
    for place in dict.fromkeys((below.replace("text_encoder", "tokenizer"), below)):
        try:
            if not any(_has(source, place, name, library) for name in WORDS):
                continue  # where there is none, transformers makes up one of its own
            return library.AutoTokenizer.from_pretrained(source, subfolder=place, trust_remote_code=False).backend_tokenizer
        except (OSError, ValueError, AttributeError, ImportError) as error:
            why = why or error
    raise PretrainedTextError(
        f"`{source}` has no tokenizer that can be used ({_first_line(why) if why else 'it lacks the file'}); "
        f"hint: {' or '.join(WORDS)} beside the weights"
    ) from why


def _has(source: str, below: str, name: str, library: Any) -> bool:
    try:
        return library.utils.cached_file(source, name, subfolder=below) is not None
    except OSError:
        return False


def _of_another_shape(source: str, why: str) -> PretrainedTextError:
    return PretrainedTextError(
        f"the weights of `{source}` are not of the shape of its config.json ({why}); hint: keep all files of one checkpoint"
    )


def _transformers() -> Any:
    """Answers the library.

    Raises:
        PretrainedTextError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise PretrainedTextError(f"a T5 text encoder needs transformers, which is not installed; hint: `{_install()}`") from error
    transformers.utils.logging.set_verbosity_error()  # what is wrong is said here, in one sentence
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _install() -> str:
    return "pip install 'transformers>=5.24,<6' 'sentencepiece>=0.2'"


def _first_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:160] if lines else type(error).__name__
