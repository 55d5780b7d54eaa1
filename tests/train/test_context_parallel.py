"""Groups of workers that share out the tokens of the same clips."""

import pytest

from components.train.context import TrainContext, nothing_to_report
from components.train.context_parallel import as_group, sequence_group


@pytest.mark.parametrize(
    ("workers", "world_size", "groups"),
    [
        (1, 3, [[0], [1], [2]]),
        (2, 4, [[0, 1], [2, 3]]),
        (4, 4, [[0, 1, 2, 3]]),
        (4, 6, [[0, 1], [2, 3], [4, 5]]),
        (4, 1, [[0]]),
    ],
)
def test_a_group_has_one_share_of_a_batch(workers: int, world_size: int, groups: list[list[int]]) -> None:
    for place, group in enumerate(groups):
        for rank in group:
            found = as_group(TrainContext(rank, world_size, "cpu", 1, nothing_to_report, lambda model: model), workers)
            assert (found.rank, found.world_size) == (place, len(groups))


def test_a_worker_alone_shares_with_nobody() -> None:
    assert sequence_group(TrainContext(0, 1, "cpu", 1, nothing_to_report, lambda model: model), 4) is None
