"""On the real language model and lexicons, where they are."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.graph.arpa import Arpa, write_arpa
from asr_kd.graph.arpa_reader import read_arpa
from asr_kd.graph.compile import compile_graph
from asr_kd.graph.grammar import make_grammar
from asr_kd.graph.ngram import estimate, measure
from asr_kd.hmm.lexicon_reader import read_lexicon
from asr_kd.hmm.states import StateSpace


def test_the_pruned_trigram_scores_as_in_kenlm_and_makes_a_small_grammar(corpora: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    path = corpora / "lm" / "tg_small.arpa.gz"
    arpa = read_arpa(path)
    assert [len(grams.words) for grams in arpa.grams] == [20533, 411685, 182026]
    files = sorted(corpora.glob("LibriSpeech/test-clean/1*/*/*.txt"))
    text = [line.split()[1:] for file in files for line in file.read_text().splitlines()][:300]
    theirs = kenlm.Model(str(path))
    scores = [score for sentence in text for score in theirs.full_scores(" ".join(sentence))]
    ours = measure(arpa, text)
    assert ours.oov == sum(oov for _, _, oov in scores)
    assert ours.log10_prob == pytest.approx(sum(score for score, _, oov in scores if not oov), rel=1e-5)
    words = [word for word in arpa.vocabulary if word not in ("<s>", "</s>", "<unk>")]
    grammar = make_grammar(arpa, words)
    assert grammar.num_states < 70_000  # 419 thousand with those that only back off
    assert grammar.num_arcs == len(words) + 411685 + 182026 - ends(arpa) + grammar.num_states - 1


def ends(arpa: Arpa) -> int:
    """How many longer n-grams end a sentence; they are final costs."""
    end = arpa.vocabulary.index("</s>")
    return sum(int((grams.words[:, -1] == end).sum()) for grams in arpa.grams[1:])


def test_an4s_homophones_and_prefixes_compile(corpora: Path, tmp_path: Path) -> None:
    """O and OH are homophones, and many words begin others."""
    lexicon = read_lexicon(corpora / "an4" / "etc" / "an4.dic")
    phones = ("SIL", *(phone for phone in lexicon.phones if phone != "SIL"))
    transcripts = (corpora / "an4" / "etc" / "an4_train.transcription").read_text().splitlines()
    text = [[w for w in line.split("(")[0].split() if w in lexicon.entries] for line in transcripts]
    write_arpa(estimate([words for words in text if words], order=3), tmp_path / "a.arpa")
    table = np.zeros((len(phones),) * 3 + (3,), np.int32)
    table += np.arange(len(phones))[None, :, None, None] * 3 + np.arange(3)
    loop = np.full(3 * len(phones), np.log(0.5), np.float32)
    space = StateSpace(phones, ("SIL",), np.full(len(phones), 3), table, loop)
    info = compile_graph(space, lexicon, tmp_path / "a.arpa", tmp_path / "graph")
    assert {"O", "OH"} <= {line.split()[0] for line in (tmp_path / "graph" / "words.txt").read_text().splitlines()}
    assert info.not_in_lexicon == ()
