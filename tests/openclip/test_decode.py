import torch

from components.openclip.decode import caption_pictures, greedy


def reference(coca, picture, max_tokens):
    """Writes a caption by the stock forward pass over all earlier tokens, again and again."""
    latent, image_tokens = coca.model._encode_image(picture[None])
    tokens, total = torch.tensor([[coca.tokenizer.sot_token_id]]), []
    while tokens.shape[1] < max_tokens:
        logits = coca.model(None, tokens, image_latent=latent, image_embs=image_tokens, output_labels=False)["logits"][0, -1]
        logits[[0, coca.tokenizer.sot_token_id]] = float("-inf")
        score, token = logits.log_softmax(-1).max(-1)
        tokens = torch.cat([tokens, token.view(1, 1)], 1)
        total.append(float(score))
        if int(token) == coca.tokenizer.eot_token_id:
            break
    return tokens[0, 1:].tolist(), total


def test_tokens_and_scores_are_those_of_the_stock_forward_pass(little_coca):
    pictures = 3 * torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens, log_probs = greedy(little_coca, little_coca.model._encode_image(pictures)[1], 16)
        for row, picture in enumerate(pictures):
            expected, scores = reference(little_coca, picture, 16)
            assert tokens[row, : len(expected)].tolist() == expected
            torch.testing.assert_close(log_probs[row, : len(scores)], torch.tensor(scores), atol=1e-4, rtol=1e-4)


def test_a_caption_ends_at_its_end_mark(little_coca, monkeypatch):
    pictures = torch.randn(3, 3, 24, 24)
    eot = little_coca.tokenizer.eot_token_id
    with torch.no_grad():
        kept = little_coca.model.text_decoder.text_projection.clone()
        little_coca.model.text_decoder.text_projection[:, eot] = 0
        little_coca.model.text_decoder.ln_final.bias.zero_()
        little_coca.model.text_decoder.text_projection.mul_(0)
        little_coca.model.text_decoder.text_projection[0, eot] = 1.0
        monkeypatch.setattr(little_coca.model.text_decoder.ln_final, "forward", lambda x: torch.ones_like(x))
        captions = caption_pictures(little_coca, pictures)
        little_coca.model.text_decoder.text_projection.copy_(kept)
    assert [caption for caption, _ in captions] == ["", "", ""]
