"""Which workers share out the tokens of the same clips (`dit.context_parallel`), and what share of a batch they have together.

Needs torch alone.
"""

import math
from dataclasses import replace

import torch

from components.models.sequence_parallel import SequenceGroup
from components.train.context import TrainContext


def as_group(context: TrainContext, workers: int) -> TrainContext:
    """Answers a worker's place where each group of `workers` counts as one: it has one share of a batch.

    Trainings start whole groups alone; elsewhere, where workers do not divide, groups are smaller, and what is learned is the same.
    """
    together = math.gcd(workers, context.world_size)
    return replace(context, rank=context.rank // together, world_size=context.world_size // together)


def sequence_group(context: TrainContext, workers: int) -> SequenceGroup | None:
    """Answers the group that a worker is in, None where it is alone; all workers call it at the same moment."""
    together = math.gcd(workers, context.world_size)
    if together == 1:
        return None
    groups = [torch.distributed.new_group(list(range(first, first + together))) for first in range(0, context.world_size, together)]
    return SequenceGroup(context.rank % together, together, groups[context.rank // together])
