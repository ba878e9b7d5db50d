"""What the commands of an experiment need: imported once, for all of its processes."""

import contextlib

import asr_kd.cli.decode
import asr_kd.cli.report
import asr_kd.cli.score
import asr_kd.cli.train
import asr_kd.decode.recognise
import asr_kd.decode.tune
import asr_kd.score.report
import asr_kd.targets.write_targets
import asr_kd.train.loop  # noqa: F401

with contextlib.suppress(ImportError):  # it is optional
    import torch.utils.tensorboard  # noqa: F401
