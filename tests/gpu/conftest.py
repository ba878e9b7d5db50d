"""What these tests share with those of training on a CPU."""

from tests.train.conftest import make_data

__all__ = ["make_data"]
