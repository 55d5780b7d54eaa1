"""Which tokens of packed clips each worker of a group has; what two of them answer together, tests/train/test_shares.py says."""

import math

import torch

from components.models.packing import runs_of_batches
from components.models.sequence_parallel import KEPT, SequenceGroup, Share


def test_the_way_to_a_share_is_found_once_for_each_layout() -> None:
    group, device = SequenceGroup(0, 2), torch.device("cpu")

    def share(clips: int, grid: tuple[int, int, int]) -> Share:
        return group.share(runs_of_batches([clips], [math.prod(grid)]), [grid], device)

    first = share(2, (3, 3, 3))
    assert share(2, (3, 3, 3)).taken is first.taken
    assert share(2, (3, 3, 3)).order is first.order
    assert share(1, (3, 3, 3)).taken.shape != first.taken.shape
    assert not torch.equal(share(2, (3, 9, 1)).taken, share(2, (27, 1, 1)).taken)  # as long, and laid out otherwise
    for frames in range(1, 2 * KEPT):
        share(1, (frames, 2, 2))
    assert share(2, (3, 3, 3)).taken is not first.taken  # what is kept is bounded
    assert torch.equal(share(2, (3, 3, 3)).taken, first.taken)


def test_shares_hold_every_token_once_and_are_of_one_length() -> None:
    grids = [(3, 3, 3), (1, 1, 1), (2, 2, 3)]
    runs = runs_of_batches([2, 1, 1], [27, 1, 12])
    count = sum(run.clips * run.length for run in runs)
    shares = [SequenceGroup(rank, 2).share(runs, grids, torch.device("cpu")) for rank in range(2)]
    assert {sum(run.clips * run.length for run in share.own) for share in shares} == {shares[0].taken.shape[1]}
    tokens = torch.arange(count)
    together = torch.cat([share.of(tokens) for share in shares])
    assert torch.equal(together[shares[0].order], tokens)
    frame = torch.arange(27) // 9
    for share in shares:  # a run's timesteps by frame still lie evenly over its tokens
        own = share.own[0].of_tokens(share.of(torch.cat([frame, frame, torch.zeros(13, dtype=torch.int64)])))
        assert own.unflatten(1, (3, -1))[0, :, 0].tolist() == [0, 1, 2]
