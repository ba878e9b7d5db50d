"""Audio -> frames of log-mel energies or cepstra, normalised, in a frame store."""
