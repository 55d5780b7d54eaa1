"""Pictures that move in a known way."""

import cv2
import numpy as np


def sliding(shift: tuple[int, int], num_frames: int = 5, side: int = 64) -> np.ndarray:
    """A textured picture that slides by (x, y) whole pixels a frame."""
    room = num_frames * max(abs(step) for step in shift) + 1
    noise = np.random.default_rng(0).integers(0, 256, (side + 2 * room, side + 2 * room, 3)).astype(np.float32)
    large = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    x, y = shift
    return np.stack(
        [large[room - y * t : room - y * t + side, room - x * t : room - x * t + side] for t in range(num_frames)],
    )
