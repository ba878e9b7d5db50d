"""The tiny recogniser of the decoder's tests."""

from tests.decode.conftest import audio, datadir, features, model, parts, space

__all__ = ["audio", "datadir", "features", "model", "parts", "space"]
