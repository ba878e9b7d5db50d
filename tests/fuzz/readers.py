"""Every reader of the project: the files that it is given, which of them are mutated, and how it is called."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.world import AUDIO

Call = str | Callable[[], object]  # a command of asr-kd, or a function


@dataclasses.dataclass(frozen=True)
class Reader:
    """What one reader is given.

    - ``files``: files and folders of the world that a case has.
    - ``mutated``: globs of those that are mutated; one or two of them in each case.
    - ``calls``: commands, run in the folder of the case; each case runs one.
    - ``prepare``: what is done instead of mutating files, with the folder.
    """

    name: str
    files: tuple[str, ...]
    mutated: tuple[str, ...]
    calls: tuple[Call, ...]
    prepare: Callable[[Path, random.Random], None] | None = None


def load(cls_name: str, path: str) -> Callable[[], object]:
    """A call that reads the YAML file at ``path`` as the configuration class ``module:name``."""

    def call() -> object:
        return _load(cls_name, path)

    call.__name__ = f"load_config({cls_name}, {path!r})"
    return call


def _load(cls_name: str, path: str) -> Any:
    import importlib

    from asr_kd.config import load_config

    module, name = cls_name.split(":")
    return load_config(getattr(importlib.import_module(module), name), path)


def build_network() -> None:
    """Read a network's configuration and make the network."""
    from asr_kd.nets import AcousticModel
    from asr_kd.nets.config import NetConfig

    AcousticModel(_load("asr_kd.nets.config:NetConfig", "student/config.yaml"))
    assert NetConfig


def read_url_store() -> None:
    """Open a store at a URL (a file system in memory) and read all of it."""
    import fsspec

    from asr_kd.frames import FrameStore

    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    for path in Path("mfcc").iterdir():
        files.pipe_file(f"/store/{path.name}", path.read_bytes())
    store = FrameStore("memory://store")
    for utterance in store.utterances:
        store.read(utterance)


def read_store_randomly() -> None:
    """Open a store and read its utterances one by one, and joined with another one."""
    from asr_kd.frames import FrameStore, open_joined

    store = FrameStore("mfcc")
    assert store.total_frames >= 0
    for utterance in reversed(store.utterances):
        for array in store.read(utterance).values():
            array.sum()
    for shard in open_joined([store, "states"]).runs(store.utterances):
        for array in shard.tensors.values():
            array.sum()


def rename_utterance(folder: Path, rng: random.Random) -> None:
    """Give one utterance, or speaker, another name in all tables of ``plain``, in ``mfcc`` and in ``dec_net``."""
    from tests.fuzz.mutate import WORDS

    old = rng.choice(("s0-u0", "s0-u2", "s1-u5", "s0 ", "s1 "))
    new = rng.choice([*WORDS, "x" * 300, "é" * 200, "a\nb", "a|b", "sp0.9-s0-u0", "\x7f", "CON", "a:b", "a.ark:5"])
    new = new if rng.random() < 0.7 else f"{old.strip()}{new}"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in ("", ".scp", ".json", ".txt"):
            text = path.read_bytes()
            path.write_bytes(text.replace(old.strip().encode(), new.encode("utf-8", "surrogatepass")))


_DECODING = ("graph/words.txt",)
_MFCC_MODEL = ("wav", "mfcc", "conf")
_TRAIN = "train --feats mfcc --states states --dev-feats mfcc --dev-states states --config conf/train.yaml --device cpu"

READERS = (
    Reader(
        "data-directory",
        ("plain", "wav", "lexicon.txt", "conf", "dec_net"),
        ("plain/*", "lexicon.txt"),
        (
            "corpus validate plain --jobs 1 --lexicon lexicon.txt",
            "corpus info plain",
            "corpus subset plain out --fraction 0.5",
            "corpus combine out plain",
            "corpus perturb plain out --speeds 0.9 --shifts 10",
            "feats plain out --config conf/features.yaml --skip-bad",
            "lm estimate plain out.arpa --order 2",
            "score --ref plain --hyp dec_net",
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
            "corpus perturb data out --speeds 1.1",
            "feats data out --config conf/features.yaml",
            "feats data out --config conf/features.yaml --skip-bad",
        ),
    ),
    Reader(
        "utterance-ids",
        ("plain", "wav", "conf", "model_net", "dec_net", "mfcc"),
        (),
        (
            "corpus validate plain --jobs 1",
            "corpus perturb plain out --speeds 0.9",
            "corpus combine out plain",
            "corpus subset plain out --fraction 0.5",
            "feats plain out --config conf/features.yaml",
            "decode model_net plain --output out --format ctm",
            "decode model_net plain --output out --format json --nbest 2",
            "frames export mfcc out.ark",
            "score --ref plain --hyp dec_net",
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
        ("plain", "mfcc", "lexicon.txt", "gmm", "lm.arpa", "conf"),
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
        "model-build",
        ("graph", "gmm/lda", "mfcc", "teacher", "conf", "states"),
        ("graph/*", "gmm/lda/*", "mfcc/*", "teacher/*/model.safetensors", "teacher/*/*.yaml", "teacher/ensemble.yaml",
         "conf/features.yaml", "teacher/*/summary.json"),
        (
            "model build --gmm gmm/lda --graph graph --features mfcc out",
            "model build --network teacher/seed1 --states-dir gmm/lda --graph graph --features conf/features.yaml out",
            "model build --network teacher --states-dir gmm/lda --graph graph --features mfcc out",
            "model build --network teacher/seed1 --priors states --states-dir gmm/lda --graph graph --features mfcc out",
        ),
    ),
    Reader(
        "graph-of-a-model",
        ("model_net", "mfcc"),
        ("model_net/HCLG.fst",),
        ("decode model_net --feats mfcc", "decode model_net --feats mfcc --format ctm --nbest 3", "model info model_net"),
    ),
    Reader(
        "model-folder",
        ("model_net", "mfcc", "plain", "wav"),
        ("model_net/*",),
        (
            "decode model_net --feats mfcc --format ctm",
            "decode model_net plain --output out",
            "model info model_net",
            "decode model_net wav/r0.wav --format json --nbest 2",
        ),
    ),
    Reader(
        "gmm-model-folder",
        ("model_gmm", "mfcc"),
        ("model_gmm/*",),
        ("decode model_gmm --feats mfcc --format ctm", "model info model_gmm"),
    ),
    Reader(
        "ensemble-model-folder",
        ("model_ensemble", "mfcc"),
        ("model_ensemble/*", "model_ensemble/*/*"),
        ("decode model_ensemble --feats mfcc", "model info model_ensemble"),
    ),
    Reader(
        "tuning",
        ("model_net", "mfcc", "dec_net", "plain"),
        ("model_net/model.yaml", "model_net/tune.json", "dec_net/*"),
        ("score --ref plain --hyp dec_net", "compare dec_net", "model info model_net"),
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
        ("kaldi/ali*", "kaldi/transitions.txt"),
        (
            "hmm import-alignment out kaldi/ali.txt --num-states 60",
            "hmm import-alignment out kaldi/ali.1.gz --features mfcc --skip-bad",
            "hmm import-alignment out kaldi/ali.ark",
            "hmm import-alignment out kaldi/ali.ark --model kaldi/transitions.txt --skip-bad",
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
    Reader(
        "feature-store",
        ("mfcc", "states", "plain", "gmm/lda", "model_gmm", "teacher", "wav"),
        ("mfcc/*",),
        (
            read_store_randomly,
            "frames info mfcc",
            "frames verify mfcc",
            "frames verify mfcc --rebuild",
            "frames copy mfcc out --shard-frames 50",
            "frames export mfcc out.ark",
            "hmm align gmm/lda plain mfcc out --skip-bad",
            "decode model_gmm --feats mfcc --skip-bad",
            "feats plain out --like mfcc",
            "targets write out --teacher teacher --feats mfcc --form topk --k 2",
        ),
    ),
    Reader(
        "state-store",
        ("mfcc", "states", "conf", "teacher", "model_net"),
        ("states/*",),
        (
            "frames info states",
            "frames verify states",
            "frames export states out.ark",
            "targets write out --teacher teacher --feats mfcc --states states --form topk --k 2",
            "train --evaluate teacher --feats mfcc --states states --device cpu",
            "decode model_net --feats mfcc --states states",
        ),
    ),
    Reader("url-store", ("mfcc",), ("mfcc/*",), (read_url_store,)),
    *(
        Reader(
            f"targets-{form}",
            (form, "mfcc", "states", "conf", "teacher"),
            (f"{form}/*",),
            (
                f"targets info {form}",
                f"targets verify {form}",
                f"frames verify {form}",
                f"{_TRAIN} --targets {form} --out out",
            ),
        )
        for form in ("dense", "topk", "sampled")
    ),
    Reader(
        "network-folder",
        ("teacher", "mfcc", "states", "conf"),
        ("teacher/ensemble.yaml", "teacher/*/model.safetensors", "teacher/*/config.yaml"),
        (
            "train --evaluate teacher --feats mfcc --states states --device cpu",
            "train --evaluate teacher/seed1 --feats mfcc --states states --device cpu",
            "targets write out --teacher teacher --feats mfcc --form topk --k 2",
            "model ensemble out teacher/seed1 teacher/seed2",
            "targets compare --teacher teacher/seed2 --feats mfcc --k 2",
            "model calibrate teacher/seed1 out --classes 3 --feats mfcc --teacher teacher",
            f"{_TRAIN} --teacher teacher --out out",
        ),
    ),
    Reader(
        "gmm-folder",
        ("gmm", "plain", "mfcc", "lm.arpa"),
        ("gmm/lda/*",),
        ("hmm align gmm/lda plain mfcc out", "graph compile gmm/lda lm.arpa out", "hmm align gmm/lda plain mfcc out --skip-bad"),
    ),
    Reader(
        "resumed-gmm-training",
        ("gmm", "plain", "mfcc", "lexicon.txt", "conf"),
        ("gmm/*", "gmm/mono/*", "gmm/tri/*"),
        ("hmm train plain mfcc lexicon.txt gmm --config conf/hmm.yaml",),
    ),
    Reader(
        "resumed-training",
        ("resumed", "mfcc", "states", "topk", "conf"),
        ("resumed/*.yaml", "resumed/*.safetensors", "resumed/*.json*"),
        (f"{_TRAIN} --targets topk --out resumed",),
    ),
    Reader(
        "members-folder",
        ("teacher", "mfcc", "states", "conf"),
        ("teacher/*.yaml", "teacher/*/*.yaml", "teacher/*/*.json*", "teacher/*/*.safetensors"),
        (f"{_TRAIN} --members 2 --seed 1 --threads 1 --out teacher",),
    ),
    Reader(
        "specialists",
        ("clusters", "special", "joint", "teacher", "mfcc", "states", "gmm/lda", "plain"),
        ("clusters/*", "special/*", "special/*/*.yaml", "special/*/*.safetensors", "joint/*", "teacher/seed1/config.yaml"),
        (
            "specialists prepare out --clusters clusters --number 0 --network teacher/seed1 --states states --dev-states states",
            "specialists join out special --network teacher/seed1",
            "specialists compare joint --feats mfcc --states states --utt2spk plain/utt2spk",
        ),
    ),
    Reader(
        "scores",
        ("dec_gmm", "dec_net", "plain", "rows.jsonl"),
        ("dec_*/*", "rows.jsonl"),
        (
            "compare dec_gmm dec_net",
            "compare dec_gmm dec_net --format json",
            "score --ref plain --hyp dec_net --normaliser upper-strip-punct",
            "report --title T --output out --table a --system A dec_gmm --system B dec_net --difference A",
            "report --title T --output out --table t --rows rows.jsonl",
            "plot against --output out.png --title T --series a 1=dec_gmm 2=dec_net --x states",
        ),
    ),
    Reader(
        "curves",
        ("student",),
        ("student/*.jsonl", "student/*.json", "student/train.yaml"),
        ("plot curves --output out.png --title T --series a student",),
    ),
    Reader(
        "utterance-list",
        ("plain/utt2spk", "mfcc", "states", "model_net", "teacher"),
        ("plain/utt2spk",),
        (
            "decode model_net --feats mfcc --utterances plain/utt2spk",
            "frames copy mfcc out --utterances plain/utt2spk",
            "train --evaluate teacher --feats mfcc --states states --utterances plain/utt2spk --device cpu",
            "train --evaluate teacher --feats mfcc --states states --utt2spk plain/utt2spk --out o --device cpu",
        ),
    ),
    Reader(
        "configurations",
        ("conf", "student", "model_net/model.yaml", "teacher/ensemble.yaml", "clusters", "gmm/lda/states.yaml", "plain", "wav"),
        ("conf/*", "student/config.yaml", "model_net/model.yaml", "teacher/ensemble.yaml", "clusters/*"),
        (
            "feats plain out --config conf/features.yaml",
            "train --print-config --config conf/train.yaml",
            build_network,
            load("asr_kd.hmm.train:HmmConfig", "conf/hmm.yaml"),
            load("asr_kd.train:TrainConfig", "conf/train.yaml"),
            load("asr_kd.decode.model_folder:ModelConfig", "model_net/model.yaml"),
            load("asr_kd.nets.ensemble:EnsembleConfig", "teacher/ensemble.yaml"),
            load("asr_kd.specialists.cluster:Clusters", "clusters/clusters.yaml"),
        ),
    ),
    Reader("an4", ("an4",), ("an4/etc/*", "an4/wav/*/*/*.raw"), ("corpus prepare an4 out --corpus-dir an4",)),
    Reader("fsdd", ("fsdd",), ("fsdd/recordings/*",), ("corpus prepare fsdd out --corpus-dir fsdd",)),
    Reader(
        "librispeech",
        ("libri", "libri_lm"),
        ("libri/LibriSpeech/*.TXT", "libri/LibriSpeech/*/*/*/*.txt", "libri_lm/*"),
        ("corpus prepare librispeech out --corpus-dir libri --eval-part dev-clean-2 --dev-speakers 2 --lm-dir libri_lm",),
    ),
    Reader("mnist", ("mnist",), ("mnist/*",), ("corpus prepare mnist out --corpus-dir mnist",)),
)  # fmt: skip
