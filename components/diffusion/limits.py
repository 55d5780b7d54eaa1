"""What sampling is held to; the standard library alone, since the settings read it too."""

MOST_STEPS = 1000  # on the way from noise to a clip; far above what any sampler gains by
