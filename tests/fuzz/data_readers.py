"""Readers of corpora, language and Kaldi's files: what they are given and how they are called."""

from tests.fuzz.reader import Reader, rename_utterance
from tests.fuzz.world import AUDIO

DATA_READERS = (
    Reader(
        "data-directory",
        ("plain", "wav", "lexicon.txt", "conf", "dec_net"),
        ("plain/*", "lexicon.txt"),
        (
            "corpus validate plain --jobs 1 --lexicon lexicon.txt",
            "corpus info plain",
            "corpus subset plain out --fraction 0.5",
            "corpus combine out plain",
            "corpus perturb plain out --speeds 0.9 --shifts 0.5 --jobs 1",
            "feats plain out --config conf/features.yaml --skip-bad",
            "lm estimate plain out.arpa --order 2",
            "score --ref plain --hyp dec_net/test",
        ),
    ),
    Reader(
        "segments",
        ("data", "wav", "conf"),
        ("data/*",),
        (
            "corpus validate data --jobs 1",
            "corpus info data",
            "corpus subset data out --fraction 0.5",
            "corpus perturb data out --speeds 1.1 --jobs 1",
            "feats data out --config conf/features.yaml",
            "feats data out --config conf/features.yaml --skip-bad",
        ),
    ),
    Reader(
        "audio-archive",
        ("archived", "wav/all.ark", "conf"),
        ("archived/wav.scp", "wav/all.ark"),
        (
            "corpus validate archived --jobs 1",
            "corpus perturb archived out --speeds 0.9 --jobs 1",
            "feats archived out --config conf/features.yaml --skip-bad",
        ),
    ),
    Reader(
        "utterance-ids",
        ("plain", "wav", "conf", "model_net", "dec_net", "mfcc"),
        (),
        (
            "corpus validate plain --jobs 1",
            "corpus perturb plain out --speeds 0.9 --jobs 1",
            "corpus combine out plain",
            "corpus subset plain out --fraction 0.5",
            "feats plain out --config conf/features.yaml",
            "decode model_net plain --output out --format ctm",
            "decode model_net plain --output out --format json --nbest 2",
            "frames export mfcc out.ark",
            "score --ref plain --hyp dec_net/test",
            "decode model_net plain --format trn",
        ),
        rename_utterance,
    ),
    *(
        Reader(
            f"audio-{name}",
            ("model_net", f"audio/{name}"),
            (f"audio/{name}",),
            (f"decode model_net audio/{name}", f"decode model_net audio/{name} --no-times --skip-bad"),
        )
        for name in (*AUDIO, "stereo.wav")
    ),
    Reader(
        "audio-list",
        ("plain", "wav", "conf", "model_net"),
        ("wav/*.wav", "plain/wav.scp"),
        ("decode model_net --list plain/wav.scp --skip-bad", "corpus validate plain --jobs 1"),
    ),
    Reader(
        "lexicon",
        ("plain", "wav", "mfcc", "lexicon.txt", "gmm", "lm.arpa", "conf"),
        ("lexicon.txt",),
        (
            "hmm align gmm/lda plain mfcc out --lexicon lexicon.txt --skip-bad",
            "graph compile gmm/lda lm.arpa out --lexicon lexicon.txt",
            "corpus validate plain --jobs 1 --lexicon lexicon.txt",
            "lm estimate plain out.arpa --order 2 --vocabulary lexicon.txt",
            "hmm train plain mfcc lexicon.txt out --config conf/hmm.yaml --skip-bad",
        ),
    ),
    Reader(
        "lexicon-formats",
        ("plain", "mfcc", "dict", "gmm/lda", "lm.arpa"),
        ("dict/*",),
        (
            "hmm align gmm/lda plain mfcc out --lexicon dict/lexiconp.txt --ctm words.ctm",
            "hmm align gmm/lda plain mfcc out --lexicon dict/lexiconp_silprob.txt --phone-ctm phones.ctm --skip-bad",
            "graph compile gmm/lda lm.arpa out --lexicon dict/lexiconp.txt",
            "graph compile gmm/lda lm.arpa out --lexicon dict/lexiconp_silprob.txt",
            "hmm align gmm/lda plain mfcc out --lexicon dict/mfa.dict --lexicon-format mfa",
            "hmm align gmm/lda plain mfcc out --lexicon dict/cmu.dict --lexicon-format plain --skip-bad",
        ),
    ),
    Reader(
        "transition-model",
        ("kaldi", "graph/words.txt"),
        ("kaldi/*.mdl", "kaldi/ids.ark"),
        (
            "hmm import-alignment out kaldi/ids.ark --model kaldi/final.mdl",
            "hmm import-alignment out kaldi/ids.ark --model kaldi/loops.mdl --skip-bad",
        ),
    ),
    Reader(
        "arpa",
        ("plain", "gmm/lda", "lm.arpa", "lm.arpa.gz"),
        ("lm.arpa", "lm.arpa.gz"),
        (
            "lm perplexity lm.arpa plain",
            "lm perplexity lm.arpa.gz plain",
            "graph compile gmm/lda lm.arpa out",
            "graph compile gmm/lda lm.arpa.gz out",
        ),
    ),
    Reader(
        "sentences",
        ("plain",),
        ("plain/text",),
        ("lm estimate plain/text out.arpa --order 3 --ids --unknown", "lm estimate plain/text out.arpa --order 2"),
    ),
    Reader(
        "openfst",
        ("kaldi/const.fst", "kaldi/vector.fst", "graph/words.txt", "gmm/lda", "mfcc", "kaldi/transitions.txt"),
        ("kaldi/*.fst", "graph/words.txt", "kaldi/transitions.txt"),
        (
            "graph import kaldi/const.fst graph/words.txt out",
            "graph import kaldi/vector.fst graph/words.txt out",
            "graph import kaldi/vector.fst graph/words.txt out --model kaldi/transitions.txt",
        ),
    ),
    Reader(
        "kaldi-archive",
        ("kaldi",),
        ("kaldi/feats.*", "kaldi/text.ark", "kaldi/compressed.ark"),
        (
            "frames import kaldi/feats.ark out --kind features",
            "frames import kaldi/feats.scp out --kind features --skip-bad",
            "frames import kaldi/feats.scp out --kind features",
            "frames import kaldi/text.ark out --kind features",
            "frames import kaldi/compressed.ark out --kind features --skip-bad",
            "frames import kaldi/compressed.ark out --kind features",
            "frames import kaldi/feats.ark.gz out --kind features",
        ),
    ),
    Reader(
        "kaldi-alignment",
        ("kaldi", "mfcc"),
        ("kaldi/ali*", "kaldi/transitions.*"),
        (
            "hmm import-alignment out kaldi/ali.txt --num-states 60",
            "hmm import-alignment out kaldi/ali.1.gz --features mfcc --skip-bad",
            "hmm import-alignment out kaldi/ali.ark",
            "hmm import-alignment out kaldi/transitions.ark --model kaldi/transitions.txt --skip-bad",
            "frames import kaldi/ali.txt out --kind states",
            "frames import kaldi/ali.ark out --kind states --skip-bad",
        ),
    ),
    Reader(
        "imported-targets",
        ("kaldi/scores.ark", "kaldi/scores.scp"),
        ("kaldi/*",),
        (
            "targets import kaldi/scores.ark out --values log-prob --form dense",
            "targets import kaldi/scores.scp out --values log-prob --form topk --k 2 --skip-bad",
            "targets import kaldi/scores.ark out --values logits --form sampled --k 2 --temperatures 1 --skip-bad",
        ),
    ),
    Reader("an4", ("an4",), ("an4/etc/*", "an4/wav/*/*/*.raw"), ("corpus prepare an4 out --corpus-dir an4",)),
    Reader("fsdd", ("fsdd",), ("fsdd/recordings/*",), ("corpus prepare fsdd out --corpus-dir fsdd",)),
    Reader(
        "librispeech",
        ("libri", "libri_lm"),
        ("libri/LibriSpeech/*.TXT", "libri/LibriSpeech/*/*/*/*.txt", "libri_lm/*"),
        (
            "corpus prepare librispeech out --corpus-dir libri --eval-part dev-clean-2 --dev-speakers 2"
            " --lm-dir libri_lm",
        ),
    ),
    Reader("mnist", ("mnist",), ("mnist/*",), ("corpus prepare mnist out --corpus-dir mnist",)),
)
