import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.caption.upsample import build_style
from components.config import load_config
from components.generate.conditioning import Guidance, encode_prompts, told_velocity
from components.generate.contract import MismatchedModelError
from components.generate.generator import Generator, OtherKindError
from components.generate.preview import preview
from components.generate.step_cache import calibrate
from components.measure.distortion import MAX_PSNR, psnr
from components.media.read import decode_clip
from components.models.dit import DiT, load_dit
from components.models.sizes import COCA_SIZES, VAE_SIZES, DitSize
from components.models.vae import VideoVae, save_vae
from components.models.weights import digest_folder, load_json, save_folder
from components.openclip.embed import encode_text
from components.openclip.load import build_coca, save_coca

SIZE = DitSize(hidden_size=48, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=32)
FPS = 2.0  # of latents
CAPTIONS = [
    "a red square moves left over a striped background, the camera is still",
    "a blue ring moves up over a dotted background, the camera pans right",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text-to-video folder of small untrained parts whose zero layers have moved."""
    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    vae = VideoVae(VAE_SIZES["tiny"])
    vae.start_linear(torch.rand(2, 3, 9, 32, 32) * 2 - 1)
    vae.set_normalisation(torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16))
    save_vae(place / "vae", vae, {})
    coca = build_coca(COCA_SIZES["tiny"], CAPTIONS, mosaic_frames=4, mean=[0.5] * 3, std=[0.25] * 3, seed=0)
    save_coca(place / "coca", coca)
    model = DiT(SIZE, 16, coca.text_width)
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    notes = {
        "size": {**vars(SIZE), "patch_size": [1, 2, 2]},
        "latent_channels": 16,
        "text_width": coca.text_width,
        "clip": {"num_frames": 9, "height": 32, "width": 32, "fps": 8},
        "latents_shapes": [[16, 3, 4, 4], [16, 2, 3, 5], [16, 1, 4, 4]],
        "generate": load_config("test").generate.model_dump(mode="json"),
        "contract": {
            "shift_places": 3 * 4 * 4,
            "latents_fps": FPS,
            "empty_prompt": encode_text(coca, [""])[0][0].tolist(),
            "latents_mean": vae.latents_mean.tolist(),
            "latents_std": vae.latents_std.tolist(),
            "text_width": coca.text_width,
            "video_vae": digest_folder(place / "vae"),
            "text_encoder": digest_folder(place / "coca"),
        },
    }
    parts = {"video-vae": place / "vae", "text-encoder": place / "coca"}
    save_folder(place / "whole", {"dit": model.state_dict()}, {"dit": notes, "style": build_style(CAPTIONS)}, folders=parts)
    return place / "whole"


@pytest.fixture(scope="module")
def generator(folder):
    return Generator.load(folder)


def test_a_prompt_and_a_seed_make_the_same_video_alone_or_in_a_batch(generator):
    first, second = generator.generate(CAPTIONS, [5, 6])
    alone = generator.generate([CAPTIONS[1]], [6])[0]
    assert first.frames.shape == (9, 32, 32, 3)
    assert first.frames.dtype == np.uint8
    assert np.array_equal(alone.frames, generator.generate([CAPTIONS[1]], [6])[0].frames)
    assert np.abs(alone.frames.astype(int) - second.frames).max() <= 1  # sums of another batch round differently
    assert np.abs(alone.frames.astype(int) - generator.generate([CAPTIONS[1]], [7])[0].frames).max() > 1


def test_the_prompt_is_said_as_captions_are(generator):
    sample = generator.generate(["crimson box going leftwards"], [1], num_inference_steps=1)[0]
    assert sample.prompt == "crimson box going leftwards"
    assert sample.rewritten.startswith("a red square moves left over a ")
    assert generator.generate(["a red box"], [1], num_inference_steps=1, rewrite=False)[0].rewritten == "a red box"


def test_what_several_prompts_of_a_call_have_in_common_is_said_once(generator, caplog):
    prompts = ["a red star moves left", "a blue star moves up", "a red star moves left", "a violet ring moves left"]
    samples = generator.generate(prompts, [1, 2, 3, 4], num_inference_steps=1)
    said = list(caplog.messages)
    assert [sample.rewritten for sample in samples] == [generator.told(prompt) for prompt in prompts]
    assert [message.partition(";")[0] for message in said] == [
        "no training caption says the shape `star`",
        "no training caption says the colour `purple`",
    ]


def test_the_prompt_and_guidance_change_the_video(generator):
    frames = [
        generator.generate([prompt], [1], guidance_scale=scale)[0].frames.astype(int)
        for prompt, scale in ((CAPTIONS[0], 1.0), (CAPTIONS[1], 1.0), (CAPTIONS[0], 6.0))
    ]
    assert np.abs(frames[0] - frames[1]).max() > 0
    assert np.abs(frames[0] - frames[2]).max() > 0


def test_one_frame_and_other_sizes_can_be_asked_for(generator):
    for frames, height, width in ((1, 32, 32), (5, 24, 40)):
        made = generator.generate([CAPTIONS[0]], [1], num_frames=frames, height=height, width=width)[0]
        assert made.frames.shape == (frames, height, width, 3)


def test_a_length_that_was_seen_at_another_size_alone_is_made_there(generator):
    assert generator.generate([CAPTIONS[0]], [1], num_frames=5, num_inference_steps=1)[0].frames.shape == (5, 24, 40, 3)


def test_guidance_one_is_the_prompt_alone(generator):
    embeds, mask = encode_prompts(generator.text_encoder, [*CAPTIONS, ""])
    noisy, t = torch.randn(2, 16, 3, 4, 4), torch.tensor(0.7)
    told = generator.model(noisy, t.expand(2), embeds[:2], mask[:2], FPS)
    without = generator.model(noisy, t.expand(2), embeds[2:].expand(2, -1, -1), mask[2:].expand(2, -1), FPS)
    torch.testing.assert_close(told_velocity(generator.model, embeds, mask, Guidance(1.0), FPS)(noisy, t), told)
    twice = told_velocity(generator.model, embeds, mask, Guidance(2.0), FPS)(noisy, t)
    torch.testing.assert_close(twice, without + 2.0 * (told - without), atol=1e-4, rtol=1e-4)


def test_outside_its_interval_guidance_is_the_prompt_alone_and_is_not_paid_for(generator):
    embeds, mask = encode_prompts(generator.text_encoder, [*CAPTIONS, ""])
    noisy, asked = torch.randn(2, 16, 3, 4, 4), []

    def model(x, *told):
        asked.append(len(x))
        return generator.model(x, *told)

    velocity = told_velocity(model, embeds, mask, Guidance(4.0, (0.2, 0.6)), FPS)
    for t, guided in ((0.1, False), (0.2, True), (0.6, True), (0.7, False)):
        t = torch.tensor(t, dtype=torch.float64)
        found, alone = velocity(noisy, t), generator.model(noisy, t.float().expand(2), embeds[:2], mask[:2], FPS)
        assert torch.allclose(found, alone, atol=1e-4) != guided
        assert asked[-1] == (4 if guided else 2)


def test_rescaled_guidance_keeps_its_direction_and_has_the_spread_of_the_prompt_alone(generator):
    embeds, mask = encode_prompts(generator.text_encoder, [*CAPTIONS, ""])
    noisy, t = torch.randn(2, 16, 3, 4, 4), torch.tensor(0.7)
    alone, guided, half, whole = (
        told_velocity(generator.model, embeds, mask, guidance, FPS)(noisy, t)
        for guidance in (Guidance(1.0), Guidance(8.0), Guidance(8.0, rescale=0.5), Guidance(8.0, rescale=1.0))
    )
    for one in range(2):
        assert whole[one].std().item() == pytest.approx(alone[one].std().item(), rel=1e-4)
        torch.testing.assert_close(half[one], (guided[one] + whole[one]) / 2)
        torch.testing.assert_close(whole[one] / whole[one].std(), guided[one] / guided[one].std(), atol=1e-4, rtol=1e-4)


def test_a_model_that_notes_no_interval_yet_still_generates(generator):
    newer = ("guidance_interval", "guidance_rescale")
    before = {name: value for name, value in generator.notes["generate"].items() if name not in newer}
    old = replace(generator, notes={**generator.notes, "generate": before})
    made, expected = (one.generate([CAPTIONS[0]], [1])[0].frames for one in (old, generator))
    assert np.array_equal(made, expected)


def test_a_cache_of_the_model_s_own_is_switched_off_by_none(generator):
    noted = replace(generator, notes={**generator.notes, "generate": {**generator.notes["generate"], "step_cache": 5.0}})
    assert noted.settings()["step_cache"] == 5.0
    assert noted.settings(step_cache=None)["step_cache"] is None
    plain, cached, off = (
        one.generate([CAPTIONS[0]], [1], num_inference_steps=6, **given)[0].frames
        for one, given in ((generator, {}), (noted, {}), (noted, {"step_cache": None}))
    )
    assert not np.array_equal(plain, cached)
    assert np.array_equal(plain, off)


def test_a_setting_that_is_none_is_refused(generator):
    with pytest.raises(TypeError, match="`guidance` is no setting of sampling; there are guidance_interval, "):
        generator.generate([CAPTIONS[0]], [1], guidance=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 8}, "never saw clips of 8 frames at 32x32, only clips of 1 and 9 frames; hint: `--num-frames 9`$"),
        ({"num_frames": 1, "height": 24}, "never saw images at 40x24, only clips of 5 frames; hint: `--height 32 --width 32`$"),
        ({"num_frames": 40}, "hint: `--num-frames 9` and then `--extend` that video for more"),
        ({"height": 30}, "never saw `height` 30, only 40x24 and 32x32; hint: `--height 32 --width 32`"),
        ({"width": -5}, "`--width` is above 0, not -5; hint: leave it out for the model's own size"),
        ({"height": -32}, "`--height` is above 0, not -32; hint"),
        ({"height": 32, "width": 0}, "`--width` is above 0, not 0; hint"),
        ({"height": 24, "width": 32}, "never saw 32x24 pixels, only 40x24 and 32x32; hint: `--height "),
        ({"num_inference_steps": 0}, "`num_inference_steps` is from 1 to 1000, not 0; hint"),
        ({"num_inference_steps": 10**11}, "`num_inference_steps` is from 1 to 1000, not 100000000000; hint"),
        ({"timestep_shift": -1.0}, "timestep_shift"),
        ({"timestep_shift": 1e30}, "`timestep_shift` 1e\\+30 leaves nothing between two of"),
        ({"guidance_scale": 1e38}, "sampling ended in what is no number; hint: a lower `guidance_scale`"),
        ({"sampler": "ddim"}, "`sampler` is one of euler, heun, dpmpp_2m, unipc, not 'ddim'"),
        ({"seeds": [1, 2]}, "1 prompts need as many seeds, not 2"),
        ({"seeds": [2**32]}, "`seed` is a whole number from 0 to 4294967295, not 4294967296"),
        ({"seeds": [-1]}, "`seed` is a whole number from 0 to 4294967295, not -1"),
        ({"prompts": ["  "]}, "the prompt is empty"),
        ({"prompts": ["  "], "rewrite": False}, "the prompt is empty"),
        ({"prompts": ["caf\udce9"]}, r"the prompt `caf\?` is not UTF-8; hint"),
        ({"negative_prompt": "caf\udce9"}, r"the negative prompt `caf\?` is not UTF-8; hint"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_sentence(generator, changes, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(**{"prompts": [CAPTIONS[0]], "seeds": [1], **changes})


def test_progress_counts_to_its_end(generator):
    told = []
    generator.generate(CAPTIONS, [1, 2], num_inference_steps=3, progress=lambda *line: told.append(line))
    assert told == [(step, 3, "steps") for step in (1, 2, 3)]


def test_a_vae_of_another_training_is_refused_by_name(folder, tmp_path):
    model, notes = load_dit(folder)
    other = VideoVae(VAE_SIZES["tiny"])
    save_vae(tmp_path / "vae", other, {})
    parts = {"video-vae": tmp_path / "vae", "text-encoder": folder / "text-encoder"}
    save_folder(tmp_path / "mixed", {"dit": model.state_dict()}, {"dit": notes, "style": load_json(folder, "style")}, folders=parts)
    with pytest.raises(MismatchedModelError, match="`latents_mean` is not what the diffusion transformer was trained with"):
        Generator.load(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("term", "value"), [("latents_fps", 3.0), ("shift_places", 7), ("empty_prompt", [[0.0]]), ("text_width", 5), ("text_encoder", "0")]
)
def test_a_term_of_the_contract_that_is_not_met_is_named(folder, tmp_path, term, value):
    whole = _with_contract(folder, tmp_path, lambda contract: {**contract, term: value})
    with pytest.raises(MismatchedModelError, match=f"`{term}` is not what the diffusion transformer was trained with; hint"):
        Generator.load(whole)


def test_the_empty_prompt_may_be_rounded_as_machines_do(folder, tmp_path):
    def rounded(contract):
        return {**contract, "empty_prompt": torch.tensor(contract["empty_prompt"]).half().tolist()}

    Generator.load(_with_contract(folder, tmp_path, rounded))


def test_a_model_from_before_the_contract_had_all_its_terms_is_refused_with_the_way_out(folder, tmp_path):
    old = {"latents_fps", "empty_prompt"}
    whole = _with_contract(folder, tmp_path, lambda contract: {name: value for name, value in contract.items() if name not in old})
    said = "was exported before models noted `latents_fps`, `empty_prompt`; hint: `kinora run` trains it anew"
    with pytest.raises(MismatchedModelError, match=said):
        Generator.load(whole)
    without = _with_contract(folder, tmp_path / "without", lambda contract: None)
    with pytest.raises(
        MismatchedModelError, match=r"was exported before models noted `latents_mean`, .*; hint: `kinora run` trains it anew"
    ):
        Generator.load(without)


def _with_contract(folder, tmp_path, change):
    """Writes the model again with another contract."""
    model, notes = load_dit(folder)
    parts = {name: folder / name for name in ("video-vae", "text-encoder")}
    contract = change(notes["contract"])
    described = {"dit": {**notes, "contract": contract}, "style": load_json(folder, "style")}
    if contract is None:
        del described["dit"]["contract"]
    save_folder(tmp_path / "changed", {"dit": model.state_dict()}, described, folders=parts)
    return tmp_path / "changed"


def test_a_model_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model at"):
        Generator.load(tmp_path / "nothing")


def test_a_model_of_another_kind_is_said_so_by_the_name_that_it_was_given(folder):
    with pytest.raises(OtherKindError, match="/video-vae` is no text-to-video model; hint: `kinora show models` lists them"):
        Generator.load(folder / "video-vae")
    with pytest.raises(OtherKindError, match=r"^`models:/demo-video-vae/1` is no text-to-video model; hint"):
        Generator.load(folder / "video-vae", reference="models:/demo-video-vae/1")


def test_a_preview_leaves_a_sheet_and_a_video(folder, tmp_path):
    preview(folder, tmp_path / "out" / "step_000010", CAPTIONS)
    assert decode_clip((tmp_path / "out" / "step_000010.mp4").read_bytes()).shape == (9, 32, 64, 3)
    assert (tmp_path / "out" / "step_000010.png").stat().st_size > 0
    preview(folder, tmp_path / "out" / "step_000020", CAPTIONS[:1], 2, images=True)
    assert decode_clip((tmp_path / "out" / "step_000020.mp4").read_bytes()).shape == (1, 32, 32, 3)


def test_generating_needs_no_ray_prefect_lance_or_mlflow(folder):
    program = (
        "import sys, json; from components.generate.generator import Generator;"
        f"Generator.load({str(folder)!r}).generate(['a red ring'], [1], num_inference_steps=1);"
        "print(json.dumps([name for name in ('ray', 'prefect', 'lance', 'pyarrow', 'mlflow') if name in sys.modules]))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout.splitlines()[-1]) == []


def test_a_step_cache_is_off_by_default_and_at_zero_changes_nothing(generator):
    plain = generator.generate(CAPTIONS, [5, 6], num_inference_steps=6)
    for setting, same in ((None, True), (0.0, True), (5.0, False)):
        found = generator.generate(CAPTIONS, [5, 6], num_inference_steps=6, step_cache=setting)
        assert all(np.array_equal(a.frames, b.frames) for a, b in zip(plain, found, strict=True)) == same


def test_calibration_leaves_steps_out_as_far_as_samples_stay_as_like_as_was_asked(generator):
    found = calibrate(generator, CAPTIONS, 35.0, 0, lambda done, total, what: None)
    assert found.threshold > 0.0
    assert found.blocks_ran < 1.0
    assert found.psnr >= 35.0
    noted = replace(generator, notes={**generator.notes, "step_cache": vars(found)})
    plain, cached = (noted.generate(CAPTIONS, [0, 1], step_cache=setting) for setting in (None, "calibrated"))
    likeness = [psnr(a.frames, b.frames) for a, b in zip(plain, cached, strict=True)]
    assert min(likeness) == pytest.approx(found.psnr, abs=0.01)
    never = calibrate(generator, CAPTIONS, MAX_PSNR + 1, 0, lambda done, total, what: None)
    assert (never.threshold, never.blocks_ran) == (0.0, 1.0)


def test_calibration_samples_with_the_settings_that_it_is_given(generator):
    found = calibrate(generator, CAPTIONS[:1], 35.0, 0, lambda done, total, what: None, sampler="heun", num_inference_steps=6)
    assert (found.sampler, found.num_inference_steps) == ("heun", 6)
    noted = replace(generator, notes={**generator.notes, "step_cache": vars(found)})
    one, other = (
        noted.generate(CAPTIONS[:1], [0], sampler="heun", num_inference_steps=6, step_cache=setting)[0].frames
        for setting in (None, "calibrated")
    )
    assert psnr(one, other) == pytest.approx(found.psnr, abs=0.01)
    with pytest.raises(ValueError, match="`--min-psnr` is a finite number of dB above 0, not nan; hint"):
        calibrate(generator, CAPTIONS[:1], float("nan"), 0, lambda done, total, what: None)
    with pytest.raises(ValueError, match=r"`generate.step_cache` is what a calibration finds; hint: leave it out"):
        calibrate(generator, CAPTIONS[:1], 35.0, 0, lambda done, total, what: None, step_cache=0.1)


def test_calibration_over_several_batches_is_that_of_one(generator, monkeypatch):
    together = calibrate(generator, CAPTIONS, 35.0, 0, lambda done, total, what: None)
    monkeypatch.setattr("components.generate.generator.SAMPLES_AT_ONCE", 1)
    apart = calibrate(generator, CAPTIONS, 35.0, 0, lambda done, total, what: None)
    assert (apart.threshold, apart.blocks_ran) == (together.threshold, together.blocks_ran)
    assert apart.gain == pytest.approx(together.gain, rel=1e-2)
