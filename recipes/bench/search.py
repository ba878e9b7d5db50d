"""The beam search against kaldi-decoder's FasterDecoder on one core: same graph, scores, beam and max_active."""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import kaldi_decoder
import kaldifst
import numpy as np
import torch
from measuring import row

from asr_kd.decode.model_folder import Model, load_model_folder
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.frames import FrameStore

Words = list[tuple[int, ...]]


def main() -> None:
    """Score the utterances once, then run both searches in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder with a network")
    parser.add_argument("feats", type=Path, help="features of the utterances")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model_folder(options.model)
    search = dataclasses.replace(model.config.search, word_penalty=0.0)  # the peer has none
    scores = [scale * block for block, scale in scored(model, FrameStore(options.feats), search.acoustic_scale)]
    search = dataclasses.replace(search, acoustic_scale=1.0)
    ours, theirs, same = compare(our_search(model, search), peer_search(options.model, search), scores, options.rounds)
    length = sum(map(len, scores)) / 100
    how = f"beam {search.beam:g}, at most {search.max_active} active"
    against = f"kaldi-decoder's FasterDecoder, {how} (real-time factor {theirs / length:.5f})"
    unit = f"times as long on one core (real-time factor {ours / length:.5f})"
    row("search on the AN4 graph", ours / theirs, unit, against, most=1.2)
    unit, enough = f"of {len(scores)} utterances with the same words", min(100, len(scores))
    row("search on the AN4 graph: words", same, unit, f"kaldi-decoder's FasterDecoder, {how}", least=enough)


def scored(model: Model, store: FrameStore, scale: float) -> list[tuple[np.ndarray, np.float32]]:
    """The log-likelihoods ``[frames, states]`` of each utterance."""
    name = model.config.features.kind
    utterances = (store.read(utt)[name].astype(np.float32) for utt in store.utterances)
    return [(np.concatenate(list(model.scorer.blocks(item))), np.float32(scale)) for item in utterances]


def our_search(model: Model, search: SearchOptions) -> Callable[[np.ndarray], tuple[int, ...]]:
    """Scores -> word ids, with our decoder."""
    decoder = Decoder(model.graph, search)
    return lambda scores: decoder.decode(scores).words


def peer_search(model: Path, search: SearchOptions) -> Callable[[np.ndarray], tuple[int, ...]]:
    """Scores -> word ids, with FasterDecoder."""
    graph = kaldifst.StdConstFst.read(str(model / "HCLG.fst"))
    options = kaldi_decoder.FasterDecoderOptions(beam=search.beam, max_active=search.max_active)

    def decode(scores: np.ndarray) -> tuple[int, ...]:
        decoder = kaldi_decoder.FasterDecoder(graph, options)
        decoder.decode(kaldi_decoder.DecodableCtc(scores))
        _, path = decoder.get_best_path()
        return tuple(kaldifst.get_linear_symbol_sequence(path)[2])

    return decode


def compare(
    first: Callable[[np.ndarray], tuple[int, ...]],
    second: Callable[[np.ndarray], tuple[int, ...]],
    scores: Sequence[np.ndarray],
    rounds: int,
) -> tuple[float, float, int]:
    """CPU time in seconds of the best of ``rounds`` turns of each, and the number of equal results."""
    times, results = [np.inf, np.inf], [Words(), Words()]
    for turn in range(rounds + 1):
        for number, decode in enumerate((first, second)):
            began = time.process_time()
            results[number] = [decode(item) for item in scores]
            if turn:  # the first turn warms up
                times[number] = min(times[number], time.process_time() - began)
    same = sum(one == other for one, other in zip(*results, strict=True))
    return times[0], times[1], same


if __name__ == "__main__":
    main()
