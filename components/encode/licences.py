"""What the licence of a pretrained VAE lets one do with its weights, as far as this can be known without a lawyer."""

import re
from pathlib import Path

ANYTHING = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0")  # changed weights among it
KNOWN = {  # by the beginning of an id of the hub, in small letters; the longest that fits counts
    "wan-ai/": "apache-2.0",
    "thudm/cogvideox-2b": "apache-2.0",
    "zai-org/cogvideox-2b": "apache-2.0",
    "thudm/cogvideox": "the CogVideoX licence",  # commercial use by registration
    "zai-org/cogvideox": "the CogVideoX licence",
    "lightricks/": "the LTX-Video licence",  # with uses that are not allowed
    "tencent/hunyuanvideo": "the Tencent Hunyuan community licence",  # not in the EU, the UK and South Korea
    "hunyuanvideo-community/": "the Tencent Hunyuan community licence",
}
CARD = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)
LICENCE_NAME = re.compile(r"^license_name:\s*[\"']?([\w .+-]+)", re.MULTILINE)


class LicenceError(ValueError):
    """A licence that does not clearly let one change the weights; the message is one sentence with the way out."""


def licence_of(source: str) -> str | None:
    """Answers the licence of a pretrained VAE: of a model card beside its weights or above them, or of its id; None where none is known."""
    folder = Path(source)
    if folder.is_dir():
        cards = [place / "README.md" for place in (folder, folder.resolve().parent)]
        return next((found for card in cards if card.is_file() and (found := _of_card(card.read_text(errors="replace")))), None)
    fitting = [start for start in KNOWN if source.lower().startswith(start)]
    return KNOWN[max(fitting, key=len)] if fitting else None


def check_may_change(source: str, checked: bool) -> None:
    """Looks whether the weights of a pretrained VAE may be trained further.

    Args:
        checked: whether the person who runs it has read the licence and found that they may.

    Raises:
        LicenceError: the licence is unknown or has conditions, and nobody checked it.
    """
    licence = licence_of(source)
    if checked or (licence or "").lower() in ANYTHING:
        return
    said = f"is under {licence}, which has conditions" if licence else "says nothing of its licence"
    raise LicenceError(
        f"`{source}` {said}; hint: read it, and `--set vae.licence_checked=true` if you may train the weights further, "
        "or `--set vae.finetune=false`"
    )


def _of_card(text: str) -> str | None:
    """Reads the licence in the head of a model card, by its name where it is none of the usual ones."""
    head = CARD.match(text)
    if head is None or (named := LICENCE.search(head[1])) is None:
        return None
    own = LICENCE_NAME.search(head[1])
    return own[1].strip() if named[1] == "other" and own else named[1]
