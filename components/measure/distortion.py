"""How far a picture is from the one it stands for: PSNR and SSIM of uint8 clips."""

import math

import cv2
import numpy as np

MAX_PSNR = 100.0  # equal clips have no error at all; this stands for it in JSON
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5


def psnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 clips in dB, over all frames and colours at once."""
    return decibels(squared_error(reference, other))


def squared_error(reference: np.ndarray, other: np.ndarray) -> float:
    """Answers the mean squared error of two uint8 clips, or frames, of one shape."""
    if reference.shape != other.shape:
        raise ValueError(f"clips to compare have one shape, not {reference.shape} and {other.shape}")
    return float(np.square(reference.astype(np.float32) - other.astype(np.float32)).mean(dtype=np.float64))


def decibels(error: float) -> float:
    """Answers the PSNR of a mean squared error of uint8 pixels, in dB."""
    return min(MAX_PSNR, 10 * math.log10(255**2 / error)) if error > 0 else MAX_PSNR


def ssim(reference: np.ndarray, other: np.ndarray) -> float | None:
    """Structural similarity of two uint8 clips (T, H, W, 3): the mean over pixels, colours and frames.

    A Gaussian window of sigma 1.5 and 11 pixels, population covariances, K1 = 0.01, K2 = 0.03; pixels whose window would cross the
    edge are left out. None where no window fits.

    Source: Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity.
    """
    if min(reference.shape[1:3]) < 2 * SSIM_RADIUS + 1:
        return None
    return float(np.mean([_ssim_of_frames(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(reference, other, strict=True)]))


def first_frame_bias(reference: np.ndarray, other: np.ndarray) -> float:
    """Answers by how many levels of 255 the first frame's mean colour is off, compared with how far that of later frames is.

    The largest of the three colours counts; a clip of one frame is compared with none.
    """
    off = (other.astype(np.float64) - reference).mean(axis=(1, 2))  # (T, 3)
    return float(np.abs(off[0] - (off[1:].mean(axis=0) if len(off) > 1 else 0.0)).max())


def _ssim_of_frames(x: np.ndarray, y: np.ndarray) -> float:
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x = _windowed(x * x) - mean_x**2
    var_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similar / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def _windowed(frame: np.ndarray) -> np.ndarray:
    """Averages (H, W, 3) under the Gaussian window, where it fits whole."""
    weights = cv2.getGaussianKernel(2 * SSIM_RADIUS + 1, SSIM_SIGMA, cv2.CV_64F)
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    return cv2.sepFilter2D(frame, cv2.CV_64F, weights, weights)[inside, inside]
