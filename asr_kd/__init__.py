"""Speech acoustic-model distillation: from transcribed speech to a small, fast hybrid HMM recogniser."""

__version__ = "0.1.0"
