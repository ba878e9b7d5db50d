"""Times of words and phones from stored alignments, and the probabilities counted from them."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.corpus.datadir import read_data_dir
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.hmm.align import Alignment, Segment
from asr_kd.hmm.align import align as align_utterance
from asr_kd.hmm.alignment_times import read_alignments
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.lexicon import Lexicon, SilenceProbabilities, Weights
from asr_kd.hmm.lexicon_reader import read_lexicon
from asr_kd.hmm.pronunciation_counts import estimate_probabilities
from asr_kd.hmm.states import StateSpace
from tests.hmm.conftest import Boundaries, align


def test_stored_states_give_the_alignment_that_they_came_from(corpus: tuple[Path, Boundaries], tmp_path: Path) -> None:
    root, _ = corpus
    assert align(root, tmp_path / "states") == 0
    space, gmm = StateSpace.load(root / "out" / "lda"), Gmm.load(root / "out" / "lda")
    lexicon, datadir = read_lexicon(root / "lexicon.txt"), read_data_dir(root / "data")
    features = FrameStore(root / "feats")
    found = dict(read_alignments(FrameStore(tmp_path / "states"), datadir, space, lexicon))
    assert sorted(found) == list(datadir.utterances)
    for utt, alignment in itertools.islice(found.items(), 5):
        scores = gmm.log_likelihoods(np.asarray(features.read(utt)["mfcc"], np.float32))
        expected = align_utterance(space, lexicon, datadir.words(utt), scores)
        assert (alignment.words, alignment.phones) == (expected.words, expected.phones)
    with pytest.raises(UserError, match=r"the states of u00 are not those of its words"):
        list(read_alignments(FrameStore(tmp_path / "states"), datadir, StateSpace.load(root / "out" / "mono"), lexicon))


def test_ctm_files_say_when_words_and_phones_were_said(corpus: tuple[Path, Boundaries], tmp_path: Path) -> None:
    root, truth = corpus
    options = ["--ctm", str(tmp_path / "words.ctm"), "--phone-ctm", str(tmp_path / "phones.ctm")]
    assert align(root, tmp_path / "states", *options) == 0
    lines = [line.split() for line in (tmp_path / "words.ctm").read_text().splitlines()]
    wanted = [(utt, word, start, end) for utt in sorted(truth) for word, start, end in truth[utt]]
    assert [(utt, channel, word) for utt, channel, _, _, word in lines] == [
        (utt, "1", word) for utt, word, *_ in wanted
    ]
    begins = np.array([float(line[2]) for line in lines])
    ends = begins + [float(line[3]) for line in lines]
    assert np.abs(begins - [0.01 * start + 0.01 for _, _, start, _ in wanted]).mean() < 0.02
    assert np.abs(ends - [0.01 * end + 0.01 for _, _, _, end in wanted]).mean() < 0.02
    phones = [line.split() for line in (tmp_path / "phones.ctm").read_text().splitlines() if line.startswith("u00 ")]
    assert phones[0][2:] == ["0.01", phones[0][3], "SIL"]
    for one, other in itertools.pairwise(phones):
        assert float(one[2]) + float(one[3]) == pytest.approx(float(other[2]))
    assert align(root, tmp_path / "states", "--ctm", str(tmp_path / "again.ctm")) == 0  # from the complete store
    assert (tmp_path / "again.ctm").read_bytes() == (tmp_path / "words.ctm").read_bytes()


def said(*parts: tuple[str, str] | None) -> Alignment:
    """An alignment of ``(word, phones)`` and silences (None), each phone one frame long."""
    words: list[Segment] = []
    phones: list[Segment] = []
    for part in parts:
        label, names = part or ("", "SIL")
        start = len(phones)
        phones += [Segment(name, start + n, start + n + 1) for n, name in enumerate(names.split())]
        if part:
            words.append(Segment(label, start, len(phones)))
    return Alignment(np.zeros(len(phones), np.int32), tuple(words), tuple(phones), 0.0)


def test_probabilities_follow_kaldis_formulas() -> None:
    """By hand: dict_dir_add_pronprobs.sh with lambda 2 = lambda 3 = 2, add-one smoothed, largest 1, two decimals."""
    lexicon = Lexicon({"a": (("A",), ("A", "B")), "b": (("B",),), "never": (("C",),)})
    alignments = [
        said(None, ("a", "A"), ("b", "B"), None),
        said(None, ("a", "A B"), None, ("a", "A"), ("a", "A")),
        said(None),
    ]
    found = estimate_probabilities(lexicon, alignments)
    # before: a/A 2 silent + 1 not, b 0 + 1, a/AB 1 + 0, </s> 1 + 1: 4 of 7 silent
    assert found.silences is not None
    overall = 0.57
    assert found.silences.overall == overall
    assert found.silences.begin == round((2 + 2 * overall) / (2 + 2), 2)
    a, ab = found.weights["a"]
    assert (a.probability, ab.probability) == (1.0, float(f"{0.333333 / 0.666667:.6g}"))
    assert a.silence_after == round(2 * overall / (3 + 2), 2)  # never followed by a silence, three times by none
    assert ab.silence_after == round((1 + 2 * overall) / (1 + 2), 2)
    assert found.weights["never"] == (Weights(1.0, overall, 1.0, 1.0),)
    expected = 1 * a.silence_after  # of b: after a/A
    assert found.weights["b"][0].after_silence == round(2 / (expected + 2), 2)
    assert found.weights["b"][0].after_word == round((1 + 2) / (1 - expected + 2), 2)


def test_the_estimated_lexicon_is_written_as_kaldis_files(
    corpus: tuple[Path, Boundaries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = corpus
    assert align(root, tmp_path / "states") == 0
    arguments = [str(root / "out" / "lda"), str(root / "data"), str(tmp_path / "states"), str(tmp_path / "dict")]
    assert main(["hmm", "pronunciations", *arguments]) == 0
    assert "4 words, 0 with several pronunciations" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "dict").iterdir())
    assert names == ["lexiconp.txt", "lexiconp_silprob.txt", "silprob.txt"]
    plain = read_lexicon(tmp_path / "dict" / "lexiconp.txt")
    assert plain.weights["one"] == (Weights(1.0),)
    full = read_lexicon(tmp_path / "dict" / "lexiconp_silprob.txt")
    assert full.silences is not None
    assert full.silences.begin > 0.9  # every utterance begins with a silence, and has none between words
    assert full.silences.overall < 0.5
    assert isinstance(full.silences, SilenceProbabilities)
