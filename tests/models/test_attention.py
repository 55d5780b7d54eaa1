import pytest
import torch
import torch.nn.functional as F

from components.models.attention import FEW_KEYS, Attention, attend


def test_without_learning_it_is_torch_attention_of_normalised_queries_and_keys():
    attention, x = Attention(12, 3), torch.randn(2, 5, 12)
    key, value = attention.key_value(x).chunk(2, dim=-1)
    query, key, value = (part.view(2, 5, 3, 4).transpose(1, 2) for part in (attention.query(x), key, value))
    query, key = (part / part.square().mean(-1, keepdim=True).sqrt() for part in (query, key))
    expected = (query @ key.mT / 2.0).softmax(-1) @ value
    torch.testing.assert_close(attention(x), attention.out(expected.transpose(1, 2).reshape(2, 5, 12)), atol=1e-5, rtol=1e-4)


def test_what_is_masked_does_not_matter():
    attention = Attention(16, 2, context_size=8)
    x, context, mask = torch.randn(2, 3, 16), torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    other = context.clone()
    other[:, 4:] = 100.0
    torch.testing.assert_close(attention(x, context, mask), attention(x, other, mask))
    torch.testing.assert_close(attention(x, context, mask), attention(x, context[:, :4]), atol=1e-6, rtol=1e-5)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="num_heads"):
        Attention(10, 3)


@pytest.mark.parametrize("keys", [1, FEW_KEYS, FEW_KEYS + 1])
@pytest.mark.parametrize("masked", [False, True])
def test_few_keys_are_attended_to_as_torch_does(keys: int, masked: bool) -> None:
    parts = [torch.randn(3, length, 2, 8) for length in (7, keys, keys)]
    mask = torch.arange(keys) < torch.tensor([[keys], [max(1, keys // 2)], [1]]) if masked else None
    learns = [[part.clone().requires_grad_() for part in parts] for _ in range(2)]
    ours = attend(*learns[0], mask)
    query, key, value = (part.transpose(1, 2) for part in learns[1])
    torchs = F.scaled_dot_product_attention(query, key, value, None if mask is None else mask[:, None, None, :]).transpose(1, 2)
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=1e-5)
    weights = torch.randn_like(ours)
    for answer in (ours, torchs):
        (answer * weights).sum().backward()
    for mine, theirs in zip(*learns, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)
