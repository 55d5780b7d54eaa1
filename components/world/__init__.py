"""The synthetic world: its words, its films, and the weight-free reader that judges them."""
