"""Training of networks: data, objectives, the training loop, evaluation."""

from asr_kd.train.config import TrainConfig
from asr_kd.train.evaluate import Evaluation, evaluate, outputs, predict, probabilities
from asr_kd.train.frame_data import TrainingData
from asr_kd.train.loop import train
from asr_kd.train.transfer_set import Sources

__all__ = [
    "Evaluation",
    "Sources",
    "TrainConfig",
    "TrainingData",
    "evaluate",
    "outputs",
    "predict",
    "probabilities",
    "train",
]
