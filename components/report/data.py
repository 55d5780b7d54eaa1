"""What the report is fed: plain data, all of it optional, so that any project can fill in what it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Figure:
    """One figure beside its bar.

    `relation` is how the value must stand to the bar: ">=" or "<=". Shares are in [0, 1]; `unit` "%" shows them as per cent.
    """

    name: str  # key in summary.json: unseen_colour
    label: str  # in words: colour, unseen combinations
    value: float | None
    bar: float | None = None
    relation: str = ">="
    unit: str = ""
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    ceiling: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the value reaches its bar; None without a bar; a bar without a value is not reached."""
        if self.bar is None:
            return None
        if self.value is None:
            return False
        return self.value <= self.bar if self.relation == "<=" else self.value >= self.bar


@dataclass(frozen=True)
class Spending:
    """What a stage cost.

    Attributes:
        work_seconds: from its first row or step to its last.
        core_seconds: busy ones of all its processes, or, where `reserved`, those held in a cluster.
        num_bytes: what it left on the disk.
        useful_steps, repeated_steps: of a training, those that brought it on and those taken again after a kill.
        all_seconds: wall time of all attempts at it.
        cost: by the prices that are set; None without one.
    """

    work_seconds: float
    core_seconds: float
    gpu_seconds: float = 0.0
    num_bytes: int = 0
    reserved: bool = False
    useful_steps: int = 0
    repeated_steps: int = 0
    all_seconds: float = 0.0
    cost: float | None = None


@dataclass(frozen=True)
class StageRow:
    """One stage of the run: how long, how much, what came out, what it cost."""

    name: str
    title: str
    seconds: float | None
    amount: str = ""  # 4000 clips, 1000 steps
    result: str = ""
    status: str = "done"  # done, fresh, failed
    spent: Spending | None = None


@dataclass(frozen=True)
class FunnelStep:
    """How many items a step let through, and why it stopped the others."""

    step: str
    kept: int
    dropped: int = 0
    reason: str = ""


@dataclass(frozen=True)
class ClipExample:
    """A training clip with the caption it has; `truth` and `said` are fields, where the truth is known."""

    frames: np.ndarray  # uint8 (T, H, W, 3)
    caption: str
    caption_by: str = ""
    fps: Fraction | int = 8
    truth: Mapping[str, str | None] | None = None
    said: Mapping[str, str | None] | None = None


@dataclass(frozen=True)
class Reconstruction:
    """A held-out clip beside what the VAE makes of it."""

    original: np.ndarray  # uint8 (T, H, W, 3)
    decoded: np.ndarray
    psnr: float | None = None


@dataclass(frozen=True)
class Curve:
    """Values by step, one line a series."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    unit: str = ""


@dataclass(frozen=True)
class SampleVideo:
    """A generated video with its prompt and, where a reader judged it, what it read. `video` is an MP4 that browsers play."""

    prompt: str
    video: bytes
    group: str = "prompt"  # seen, unseen, real or prompt
    seed: int | None = None
    rewritten: str | None = None
    truth: Mapping[str, str | None] | None = None
    read: Mapping[str, str | None] | None = None
    score: float | None = None
    status: str = ""


@dataclass(frozen=True)
class Check:
    """One rule of the gate, in a sentence with its figures."""

    name: str
    holds: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """What the gate said of one candidate."""

    model: str  # demo-text-to-video
    outcome: str  # promote or reject
    reasons: Sequence[str] = ()
    checks: Sequence[Check] = ()
    version: str | None = None

    @classmethod
    def of(cls, model: str, said: Mapping, version: str | None = None) -> Verdict:
        """Takes over what the gate wrote down: outcome, reasons and checks."""
        checks = [Check(check["name"], check["holds"], check["sentence"]) for check in said.get("checks", ())]
        return cls(model, said["outcome"], list(said.get("reasons", ())), checks, version)


@dataclass(frozen=True)
class Maker:
    """One link of the lineage: who made what, out of what."""

    name: str
    maker: str  # digest
    version: str = ""
    made_at: str = ""
    reads: Sequence[str] = ()


@dataclass(frozen=True)
class Node:
    """One box of the picture of a model's origin; `reads` are keys of others, `mood` is good, bad or nothing."""

    key: str
    column: int
    title: str
    lines: Sequence[str] = ()
    reads: Sequence[str] = ()
    mood: str = ""


@dataclass(frozen=True)
class ReportData:
    """The whole report of one run."""

    project: str
    subtitle: str = ""
    profile: str = ""
    made_at: str = ""
    verdicts: Sequence[Verdict] = ()
    figures: Sequence[Figure] = ()
    stages: Sequence[StageRow] = ()
    funnel: Sequence[FunnelStep] = ()
    clips: Sequence[ClipExample] = ()
    reconstructions: Sequence[Reconstruction] = ()
    curves: Sequence[Curve] = ()
    samples: Sequence[SampleVideo] = ()
    evaluation: Mapping | None = None  # components.evaluate.suite.Evaluation
    champion_evaluation: Mapping | None = None
    comparison: Mapping | None = None  # components.evaluate.compare.compare
    captions: Mapping | None = None  # field -> Share, components.evaluate.fidelity.caption_accuracy
    lineage: Sequence[Maker] = ()
    origin: Sequence[Node] = ()
    settings: Mapping | None = None
    notes: Sequence[str] = ()
    paths: Mapping[str, str] = field(default_factory=dict)  # report, samples, sheets -> where they lie
    next_commands: Sequence[str] = ()
    total_seconds: float | None = None
