import torch

from components.models.packing import join, runs_of_batches


def test_runs_lie_one_behind_the_other_and_join_puts_them_back():
    runs = runs_of_batches([2, 1, 3], [4, 5, 2])
    tokens, clips = torch.arange(2 * 4 + 5 + 3 * 2), torch.arange(6)
    parts = [run.of_tokens(tokens) for run in runs]
    assert [tuple(part.shape) for part in parts] == [(2, 4), (1, 5), (3, 2)]
    assert parts[2].tolist() == [[13, 14], [15, 16], [17, 18]]
    assert [run.of_clips(clips).tolist() for run in runs] == [[0, 1], [2], [3, 4, 5]]
    assert torch.equal(join(parts), tokens)
