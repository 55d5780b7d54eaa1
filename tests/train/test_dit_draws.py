import threading

import pytest
import torch

from components.diffusion.flow_matching import interpolate, velocity_loss
from components.train.dit_draws import DitBatch, Joined, ahead, draw, drawn_batch, drop_captions
from tests.train.test_dit_loop import FPS, LATENTS, MASK, TEXT, TEXT_ALONE, batches, packed, settings


def test_what_goes_to_a_device_as_one_comes_apart_there_with_the_same_numbers():
    random = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=random).half() for shape in ((4, 3, 2, 2), (4, 1, 5, 2), (2,))]
    tensors.append(torch.randn(3, 2, generator=random).half().T)
    sent = Joined.of(tensors, torch.device("cpu"), packed=True)
    assert sent.flat.dtype == torch.float16
    for found, tensor in zip(sent.on(torch.device("cpu")), tensors, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, tensor[None].float())
    (batch,) = Joined.of(tensors[:1] * 3, torch.device("cpu")).on(torch.device("cpu"))
    assert torch.equal(batch, torch.stack(tensors[:1] * 3).float())


@pytest.mark.parametrize("given", [batches, packed])
def test_a_step_sends_few_tensors_however_many_clips_it_has(given):
    device, chosen = torch.device("cpu"), settings(caption_dropout=0.5)
    made = drawn_batch(chosen, next(given(repeat=8)(0)), 3, None, torch.zeros(2, 8), device)
    tensors = [value for value in vars(made).values() if isinstance(value, torch.Tensor | Joined)]
    assert len(made.clip_ids) == 32
    assert len(tensors) == 6
    assert sum(len(part.on(device)) for part in (made.latents, made.noise, made.t)) == (3 if given is batches else 96)


def test_so_many_steps_see_images_as_their_share_says():
    batch = next(batches()(0))
    seen = [len(draw(settings(image_share=0.25), batch, seed, None).t[0]) for seed in range(200)]
    assert set(seen) == {1, 2}
    assert 30 <= seen.count(1) <= 70


def test_kept_frames_stay_clean_and_count_for_nothing():
    chosen, batch = settings(tasks=TEXT_ALONE | {"text": 0.0, "first_frame": 1.0}), next(batches()(0))
    drawn = draw(chosen, batch, 3, None)
    assert all(t[0] == 0.0 and t[1] > 0.0 for t in drawn.t)
    latents, noise, t = batch.latents, torch.stack(drawn.noise), torch.stack(drawn.t)
    assert torch.equal(interpolate(latents, noise, t)[:, :, 0], latents[:, :, 0])
    wrong = noise - latents
    wrong[:, :, 0] = 100.0
    assert velocity_loss(wrong, latents, noise, t).abs().max() == 0.0
    wrong[:, :, 1] += 2.0
    torch.testing.assert_close(velocity_loss(wrong, latents, noise, t), torch.full((4,), 4.0))


def test_clips_of_fewer_places_are_trained_at_less_noise():
    chosen, clips = settings(timestep_shift=3.0), (LATENTS[0], LATENTS[0, :, :1])
    batch = DitBatch(clips, TEXT[:2], MASK[:2], ("a", "b"), FPS[:2])
    plain, shifted = draw(settings(), batch, 3, None), draw(chosen, batch, 3, 2 * 4 * 4)
    for place, shift in enumerate((3.0, 3.0 * 0.5**0.5)):
        t = plain.t[place]
        torch.testing.assert_close(shifted.t[place], shift * t / (1 + (shift - 1) * t))


def test_the_empty_prompt_stands_in_for_dropped_captions():
    embeds, mask = drop_captions(TEXT, MASK, torch.tensor([True, False, False, True]), torch.full((2, 8), 5.0))
    assert torch.equal(embeds[1], TEXT[1])
    assert mask[1].all()
    assert mask[0].tolist() == [True, True, False]
    assert torch.equal(embeds[3, :2], torch.full((2, 8), 5.0))


def test_a_batch_is_made_while_the_one_before_it_is_in_use():
    made = [threading.Event() for _ in range(4)]

    def batches():
        for number, event in enumerate(made):
            event.set()
            yield number

    coming = ahead(batches())
    assert next(coming) == 0
    assert made[1].wait(60)
    assert not made[2].wait(0.1)  # no more than one
    coming.close()
    assert not any(thread.name.startswith("batches") and thread.is_alive() for thread in threading.enumerate())


def test_what_is_wrong_with_a_table_is_said_by_the_step_that_reads_it(tmp_path):
    def broken():
        yield "a batch"
        raise OSError("the disk is gone")

    coming = ahead(broken())
    assert next(coming) == "a batch"
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)
