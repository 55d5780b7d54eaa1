import subprocess
import sys

import torch

from components.openclip.embed import encode_text
from tests.openclip.conftest import CAPTIONS


def test_a_text_alone_has_the_vectors_it_has_among_longer_ones(little_coca):
    together, mask = encode_text(little_coca, ["", "a red square", CAPTIONS[0]])
    for row, text in enumerate(["", "a red square", CAPTIONS[0]]):
        alone, whole = encode_text(little_coca, [text])
        assert whole.all()
        assert int(mask[row].sum()) == alone.shape[1]
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
        assert (together[row, alone.shape[1] :] == 0).all()


def test_an_empty_prompt_is_its_two_marks(little_coca):
    embeds, mask = encode_text(little_coca, [""])
    assert embeds.shape == (1, 2, 32)
    assert mask.tolist() == [[True, True]]


def test_vectors_are_the_stock_text_tower_s_normalised(little_coca):
    tokens = little_coca.tokenizer([CAPTIONS[1]])
    with torch.no_grad():
        _, stock = little_coca.model._encode_text(tokens)  # padded to the context length
    embeds, _ = encode_text(little_coca, [CAPTIONS[1]])
    expected = torch.nn.functional.layer_norm(stock[:, : embeds.shape[1]], (32,))
    torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=1e-5)


def test_a_text_longer_than_the_context_is_cut_and_still_ends(little_coca):
    embeds, mask = encode_text(little_coca, ["red " * 200])
    assert embeds.shape[1] == mask.shape[1] == little_coca.model.context_length


def test_texts_are_encoded_without_the_packages_that_open_clip_brings(tmp_path, little_coca, repository):
    from components.openclip.load import save_coca

    save_coca(tmp_path / "coca", little_coca)
    script = (
        "import sys\nfrom components.openclip.embed import encode_text\nfrom components.openclip.load import load_coca\n"
        f"encode_text(load_coca({str(tmp_path / 'coca')!r}), ['a red square'])\n"
        "print([name for name in ('open_clip', 'torchvision', 'timm', 'transformers', 'torch._dynamo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=repository, check=True)
    assert done.stdout.strip() == "[]"
