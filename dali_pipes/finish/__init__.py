"""From base images to outputs: what varies at random, then normalisation, in PyTorch. See `finish`."""
