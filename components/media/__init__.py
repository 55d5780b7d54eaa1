"""Video files in and out: the one home of PyAV. Frames outside models are RGB uint8 (T, H, W, C)."""
