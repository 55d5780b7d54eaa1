"""Where captions come from, decided once a run from the settings and the number of labelled clips."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from components.sections import Captioner


@dataclass(frozen=True)
class Choice:
    """A way to a captioner and to a text encoder, which are one model, and why it was taken."""

    mode: Literal["train", "pretrained", "untrained"]
    why: str


def choose(settings: "Captioner", labelled: int) -> Choice:
    """Decides how a project comes by its captioner; the text encoder comes with it, so there always is one.

    - pretrained: one is named in the settings. It captions what nobody described, and its text tower encodes all captions.
    - train: enough clips are labelled, by a manifest or by sidecars. The captioner learns from them.
    - untrained: too few are. Given captions stay, other clips stay without one and train no text-to-video model, and a text
      tower of random weights encodes the captions: it tells words apart but knows no meanings.

    A manifest's captions are kept in all three.

    Args:
        labelled: clips of the training split that lend their label.
    """
    if settings.pretrained is not None:
        return Choice("pretrained", f"`captioner.pretrained` names `{settings.pretrained}`")
    if labelled >= max(1, settings.min_labelled):
        return Choice("train", f"{labelled} labelled clips, at least {settings.min_labelled} are asked for")
    return Choice("untrained", f"{labelled} labelled clips, fewer than `captioner.min_labelled` = {settings.min_labelled}")
