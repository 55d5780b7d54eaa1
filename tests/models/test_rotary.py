import pytest
import torch

from components.models.rotary import head_shares, rotate, token_angles, token_places


def turned(grid, fps, heads):
    angles = token_angles(token_places(grid, torch.tensor([1.0 / fps])), heads.shape[-1])[0, :, None]
    return rotate(heads, angles.cos(), angles.sin())


def test_a_head_is_shared_out_as_wan_does():
    assert head_shares(128) == (44, 42, 42)
    assert sum(head_shares(64)) == 64
    with pytest.raises(ValueError, match="a head of 4 channels cannot turn along three axes; hint: an even number from 6 on"):
        head_shares(4)


def test_what_two_tokens_make_of_each_other_depends_on_how_far_apart_they_are():
    grid, size = (4, 5, 6), 32
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(size, generator=generator).expand(4 * 5 * 6, 1, size) for _ in range(2))
    products = (turned(grid, 2.0, query)[:, None, 0] * turned(grid, 2.0, key)[None, :, 0]).sum(-1).view(*grid, *grid)
    torch.testing.assert_close(products[0, 0, 0, 1, 2, 3], products[2, 2, 2, 3, 4, 5], atol=1e-4, rtol=1e-4)
    assert (products[0, 0, 0, 1, 2, 3] - products[0, 0, 0, 3, 2, 1]).abs() > 1e-3


def test_lengths_stay_and_the_first_token_is_not_turned():
    heads = torch.randn(2 * 3 * 4, 2, 16)
    found = turned((2, 3, 4), 2.0, heads)
    torch.testing.assert_close(found.norm(dim=-1), heads.norm(dim=-1))
    torch.testing.assert_close(found[0], heads[0])


def test_places_count_rows_columns_and_quarters_of_a_second():
    places = token_places((2, 2, 3), torch.tensor([0.5, 0.125]))
    assert places[0].tolist() == [[2.0 * frame, row, column] for frame in range(2) for row in range(2) for column in range(3)]
    assert places[1, :, 0].tolist() == [0.0] * 6 + [0.5] * 6


def test_time_is_in_seconds_so_twice_the_rate_turns_half_as_far():
    slow, fast = (token_angles(token_places((frames, 2, 2), torch.tensor([1.0 / rate])), 24) for frames, rate in ((3, 2.0), (5, 4.0)))
    torch.testing.assert_close(fast.view(5, 4, -1)[::2], slow.view(3, 4, -1))


def test_it_is_the_rotation_by_the_angle_of_each_pair():
    heads = torch.randn(3, 1, 8)
    angles = torch.rand(3, 1, 4)
    as_complex = torch.complex(heads[..., :4], heads[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rotate(heads, angles.cos(), angles.sin()), torch.cat([as_complex.real, as_complex.imag], dim=-1))


def test_gradients_are_turned_back():
    heads, angles = torch.randn(3, 2, 8, dtype=torch.float64, requires_grad=True), torch.rand(3, 1, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda given: rotate(given, angles.cos(), angles.sin()), heads)
