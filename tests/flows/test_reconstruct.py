"""`kinora reconstruct` with a folder of weights: a file that plays, figures, and mistakes in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.media.read import decode_clip
from components.media.write import write_video
from components.models.vae import save_vae
from components.models.weights import digest_folder
from tests.flows.command import environment
from tests.generate.test_reconstruct import vae, waves  # noqa: F401  (principal components of waves)

SCRIPT = """
import sys
from flows.__main__ import _exit_code
first = ["reconstruct", "in.mp4", "-o", "out.mp4", "--model", "./vae", "--json"]
codes = [_exit_code(first)]
for swapped in (["in.mp4", "absent.mp4"], ["in.mp4", "vae/vae.json"], ["out.mp4", "in.mp4"], ["out.mp4", "out.gif"], ["./vae", "champion"]):
    codes.append(_exit_code([swapped[1] if word == swapped[0] else word for word in first]))
print(codes, sorted({"prefect", "ray", "lance"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def made(vae, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:  # type: ignore[no-untyped-def]  # noqa: F811
    """A folder in which one process reconstructed a video, and was given what cannot be."""
    place = tmp_path_factory.mktemp("made")
    save_vae(place / "vae", vae, {})
    write_video(place / "in.mp4", waves(12, 34, 40), 8)
    command = [sys.executable, "-c", SCRIPT]
    return place, subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, check=True)


def test_a_video_is_written_beside_its_reconstruction(made: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    place, done = made
    said = json.loads(done.stdout[: done.stdout.index("}") + 1])
    assert (said["video"], said["frames"], said["model"]) == ("out.mp4", 12, digest_folder(place / "vae"))
    assert 15 < said["psnr"] < 40
    assert 0.5 < said["ssim"] < 1
    assert decode_clip((place / "out.mp4").read_bytes()).shape == (12, 34, 2 * 40 + 8, 3)


def test_what_cannot_be_reconstructed_is_one_sentence_with_the_way_out(made: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = made
    assert done.stdout.splitlines()[-1] == "[0, 2, 2, 2, 2, 2] []"
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == sum(line.startswith("hint: ") for line in lines) == 5
    for error, words in zip(
        errors, ("`absent.mp4` is not a file", "cannot be used", "is the given `in.mp4` itself", "not an MP4", "no `"), strict=True
    ):
        assert words in error
