"""How many steps of a training counted: those that a kill made it take again did not."""

from dataclasses import dataclass
from pathlib import Path

from components.train.context import read_starts


@dataclass(frozen=True)
class StepsTaken:
    """The steps of a training.

    Attributes:
        began_at: when this call began its first step, seconds since the epoch; None where it took none.
        taken: steps of this call.
        useful: steps that brought the training on, over all attempts.
        repeated: steps that were taken again after a kill, as far as they had been reported; over all attempts.
    """

    began_at: float | None
    taken: int
    useful: int
    repeated: int

    @classmethod
    def of(cls, metrics_file: Path, starts_before: int, steps: int) -> "StepsTaken":
        """Reads what the workers wrote down at their starts.

        Args:
            starts_before: how many there were when this call began.
            steps: at which the training ended.
        """
        starts = read_starts(metrics_file)
        again = [min(start.reached, steps) - min(start.step, steps) for start in starts]
        ours = starts[starts_before:]
        return cls(
            began_at=ours[0].at if ours else None,
            taken=steps - ours[0].step + sum(again[starts_before + 1 :]) if ours else 0,
            useful=steps - starts[0].step if starts else 0,
            repeated=sum(again),
        )
