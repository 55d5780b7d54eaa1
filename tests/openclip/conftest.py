import pytest

from components.models.sizes import CocaSize
from components.openclip.load import Coca, build_coca

CAPTIONS = [
    "a red square moves left over a striped background, the camera is still",
    "a blue ring moves up over a dotted background, the camera pans right",
    "hands shuffling three red cups (shell game)",
]
LITTLE = CocaSize(32, 24, 12, 32, 2, 32, 2, 1, 64, 600, 16, 4)


@pytest.fixture(scope="session")
def little_coca() -> Coca:
    """A CoCa of random weights, with logits large enough that its captions differ from picture to picture."""
    coca = build_coca(LITTLE, CAPTIONS, mosaic_frames=4, mean=(0.3, 0.3, 0.3), std=(0.2, 0.2, 0.2), seed=3)
    coca.model.eval()
    return coca
