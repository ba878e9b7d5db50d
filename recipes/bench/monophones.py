"""Monophone training against kaldi-hmm-gmm: the same frames, words, topology and schedule, on one core."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from measuring import row, run

from asr_kd.corpus.datadir import read_data_dir
from asr_kd.frames import FrameStore
from asr_kd.hmm.lexicon import Lexicon
from asr_kd.hmm.lexicon_reader import read_lexicon
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.train import HmmConfig, train_monophones
from asr_kd.hmm.training_data import TranscribedUtterances, load_utterances
from asr_kd.hmm.transform import delta_transform


def main() -> None:
    """Train both and compare CPU time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="data directory")
    parser.add_argument("feats", type=Path, help="its cepstra")
    parser.add_argument("lexicon", type=Path)
    parser.add_argument("work", type=Path, help="folder for the files that the peer reads and writes")
    parser.add_argument("--peer", required=True, help="a Python interpreter with kaldi-hmm-gmm installed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, lexicon = HmmConfig(), read_lexicon(options.lexicon)
    space = config.monophones(lexicon)
    utterances = load_utterances(read_data_dir(options.data), FrameStore(options.feats), space, lexicon)
    began = time.process_time()
    _, gmm, history = train_monophones(utterances, lexicon, space, config, jobs=1)
    seconds = time.process_time() - began
    options.work.mkdir(parents=True, exist_ok=True)
    export(options.work, utterances, lexicon, space, config)
    run(options.peer, Path(__file__).parent / "monophones_peer.py", options.work)
    peer = json.loads((options.work / "result.json").read_text())
    ours = f"{gmm.num_gaussians} Gaussians, log-likelihood {history[-1].log_likelihood:.2f}"
    theirs = f"{peer['gaussians']} Gaussians, {peer['log_likelihood']:.2f}, {peer['seconds']:.0f} s"
    name = f"monophone training on AN4 ({ours})"
    row(name, seconds / peer["seconds"], "times as long on one core", f"kaldi-hmm-gmm ({theirs})", most=1)
    against = f"the alignment alone in kaldi-hmm-gmm ({peer['aligning']:.0f} s, all of it in C++)"
    row("monophone training on AN4: total time", seconds / peer["aligning"], "times as long on one core", against)


def export(
    folder: Path, utterances: TranscribedUtterances, lexicon: Lexicon, space: StateSpace, config: HmmConfig
) -> None:
    """Write the peer's training data and settings in formats that need no asr_kd to read."""
    transform = delta_transform(utterances.features[0].shape[1])
    bounds = np.cumsum([0, *(len(features) for features in utterances.features)])
    np.savez(
        folder / "data.npz",
        frames=np.concatenate([transform(features) for features in utterances.features]),
        bounds=bounds,
    )
    task = {
        "words": [list(words) for words in utterances.words],
        "lexicon": lexicon.entries,
        "states": dict(zip(space.phones, space.lengths.tolist(), strict=True)),
        "silence": space.silence[0],
        "gaussians": config.mono.gaussians,
        "iterations": config.mono.iterations,
        "grow_until": config.mono.grow_until,
        "realign": config.mono.realign,
        "power": config.power,
    }
    (folder / "task.json").write_text(json.dumps(task))


if __name__ == "__main__":
    main()
