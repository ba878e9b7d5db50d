"""A complete tiny experiment: one valid input of every kind that a reader of this project opens.

``build_world`` makes it with the project's own verbs, from a second of noise for each utterance. All paths inside are
relative to the world's folder, which is also the current folder of every command on it.
"""

import gzip
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import soundfile

from asr_kd.cli import main
from asr_kd.corpus.datadir import AudioSegment, write_data_dir
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, write_arrays
from tests.hmm.kaldi_model import write_model

WORDS = {"GO": ("G", "OW"), "NO": ("N", "OW"), "ON": ("AA", "N"), "STOP": ("S", "T", "AA", "P")}
HMM = """mono_gaussians: 20
tri_states: 30
tri_gaussians: 40
lda_states: 30
lda_gaussians: 40
min_leaf_frames: 5
lda_window: 3
lda_dim: 5
phone_positions: 1
silence_positions: 2
"""
TRAIN = """net:
  width: 8
  layers: 1
  left_context: 2
  right_context: 1
epochs: 1
batch_frames: 64
precision: fp32
"""
FEATURES = {"kind": "mfcc", "sample_rate": 8000, "bins": 10, "cepstra": 5, "normalise": "none"}
AUDIO = {
    "wav16.wav": {"format": "WAV", "subtype": "PCM_16"},
    "float.wav": {"format": "WAV", "subtype": "FLOAT"},
    "ulaw.wav": {"format": "WAV", "subtype": "ULAW"},
    "adpcm.wav": {"format": "WAV", "subtype": "MS_ADPCM"},
    "gsm.wav": {"format": "WAV", "subtype": "GSM610"},
    "wide.wav": {"format": "WAVEX", "subtype": "PCM_24"},
    "rf64.wav": {"format": "RF64", "subtype": "PCM_16"},
    "w64.w64": {"format": "W64", "subtype": "PCM_16"},
    "a.flac": {"format": "FLAC"},
    "a.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {"format": "MP3"},
    "a.sph": {"format": "NIST", "subtype": "PCM_16"},
    "a.aiff": {"format": "AIFF"},
    "a.au": {"format": "AU", "subtype": "PCM_16"},
    "a.caf": {"format": "CAF", "subtype": "PCM_16"},
}


def run(command: str) -> None:
    """``asr-kd`` with the words of ``command``, in the current folder; it must succeed."""
    if status := main(command.split()):
        raise RuntimeError(f"asr-kd {command}: status {status}")


def build_world(folder: Path) -> None:
    """Make the world in ``folder``, which must not exist; the current folder is ``folder`` afterwards."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    _corpora()
    _models()
    _networks()
    _recognisers()
    _kaldi_files()
    _layouts()


def sound(seconds: float, seed: int, rate: int = 8000) -> np.ndarray:
    """Noise whose colour changes, float32 ``[samples]``."""
    noise = np.random.default_rng(seed).normal(size=round(seconds * rate))
    return (0.1 * np.sin(np.cumsum(noise) / 3) + 0.02 * noise).astype(np.float32)


def _corpora() -> None:
    """``data`` (segments of two recordings), ``plain`` (a recording for each utterance) and ``audio`` (each format)."""
    for name in ("wav", "audio", "conf"):
        Path(name).mkdir()
    for number in range(6):
        soundfile.write(f"wav/r{number}.wav", sound(0.6, number), 8000)
    words = list(WORDS)
    text = {f"s{n % 2}-u{n}": [words[n % 4], words[(n + 1) % 4]] for n in range(6)}
    speakers = {utterance: utterance[:2] for utterance in text}
    write_data_dir("plain", {utt: f"wav/r{n}.wav" for n, utt in enumerate(text)}, text, speakers)
    cut = {utt: AudioSegment(f"rec{n % 2}", 0.05 * n, 0.05 * n + 0.3) for n, utt in enumerate(text)}
    cut["s0-u4"], cut["s1-u5"] = AudioSegment("rec0", 0.2, -1), AudioSegment("rec1", 0.2, 0.5, 0)
    write_data_dir("data", {"rec0": "wav/r0.wav", "rec1": "wav/r1.wav"}, text, speakers, cut)
    archive, places = b"", {}
    for number, utt in enumerate(text):
        archive += f"{utt} ".encode()
        places[utt] = f"wav/all.ark:{len(archive)}"
        archive += Path(f"wav/r{number}.wav").read_bytes()
    Path("wav/all.ark").write_bytes(archive)
    write_data_dir("archived", places, text, speakers)
    for number, (name, how) in enumerate(AUDIO.items()):
        soundfile.write(f"audio/{name}", sound(0.25, number, 16000), 16000, **how)
    Path("audio/stereo.wav").write_bytes(Path("audio/wav16.wav").read_bytes())
    soundfile.write("audio/stereo.wav", np.stack([sound(0.25, 9), sound(0.25, 8)], 1), 8000)
    Path("lexicon.txt").write_text("".join(f"{word} {' '.join(phones)}\n" for word, phones in WORDS.items()))
    Path("ids.txt").write_text("".join(f"{utterance}\n" for utterance in text))
    Path("conf/features.yaml").write_text(json.dumps(FEATURES))
    Path("conf/hmm.yaml").write_text(HMM)
    Path("conf/train.yaml").write_text(TRAIN)


def _models() -> None:
    """``mfcc`` features, the Gaussians ``gmm``, aligned ``states``, the language model and its ``graph``."""
    run("feats plain mfcc --config conf/features.yaml")
    run("feats data segments_mfcc --config conf/features.yaml")
    run("hmm train plain mfcc lexicon.txt gmm --config conf/hmm.yaml")
    run("hmm align gmm/lda plain mfcc states")
    run("hmm pronunciations gmm/lda plain states dict")
    Path("dict/mfa.dict").write_text("GO 0.99 0.1 0.5 1.2 G OW\nNO\t1.0\tN OW\nON AA N\nSTOP 0.5 S T AA P\n")
    Path("dict/cmu.dict").write_text(";;; a comment\nGO G OW # leave\nNO  N OW\nON(2) AA N\nON AA N\nSTOP S T AA P\n")
    run("lm estimate plain lm.arpa --order 2")
    Path("lm.arpa.gz").write_bytes(gzip.compress(Path("lm.arpa").read_bytes(), mtime=0))
    run("graph compile gmm/lda lm.arpa graph")


def _networks() -> None:
    """A network, an ensemble, targets of each form, a student, specialists and a checkpoint."""
    data = "--feats mfcc --states states --dev-feats mfcc --dev-states states --config conf/train.yaml --device cpu"
    for seed in (1, 2):  # --members 2 would start two processes
        run(f"train {data} --seed {seed} --threads 1 --out teacher/seed{seed}")
    run("model ensemble teacher teacher/seed1 teacher/seed2")
    for form, options in (("dense", ""), ("topk", "--k 3"), ("sampled", "--k 3 --temperatures 2")):
        run(f"targets write {form} --teacher teacher --feats mfcc --states states --form {form} {options}")
    run(f"train {data} --targets topk --out student")
    run("specialists cluster clusters --network teacher/seed1 --feats mfcc --k 2 --size 3 --states-dir gmm/lda")
    run(
        "specialists prepare special --clusters clusters --number 0 --network teacher/seed1"
        " --states states --dev-states states"
    )
    run(
        "train --begin special/begin --config conf/train.yaml --feats mfcc --states special/states --dev-feats mfcc"
        " --dev-states special/dev --out special/net --device cpu"
    )
    run("specialists join joint special --network teacher/seed1")
    shutil.copytree("student", "resumed", ignore=shutil.ignore_patterns("summary.json", "tensorboard"))
    _checkpoint(Path("resumed"))


def _checkpoint(folder: Path) -> None:
    """Put the checkpoint of a training run that was killed after its last step into ``folder``."""
    import torch

    from asr_kd.nets import load_model
    from asr_kd.train.checkpoint import Position, save_checkpoint

    model = load_model(folder)
    optimiser = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    save_checkpoint(folder / "checkpoint.safetensors", model, optimiser, Position(step=1, batch=1, frames=64))
    (folder / "model.safetensors").unlink()


def _recognisers() -> None:
    """Model folders of a GMM, a network and an ensemble, each with a decoded and scored set."""
    run("model build --gmm gmm/lda --graph graph --features mfcc model_gmm")
    run("model build --network teacher/seed1 --states-dir gmm/lda --graph graph --features mfcc model_net")
    run("model build --network teacher --states-dir gmm/lda --graph graph --features mfcc model_ensemble")
    for model in ("gmm", "net"):
        run(f"decode model_{model} --feats mfcc --states states --output dec_{model}/test --beam 8")
        run(f"score --ref plain --hyp dec_{model}/test")
    rows = {"table": "t", "system": "a", "dataset": "plain", "wer": 0.5, "frame_accuracy": 0.5, "seed": 1}
    Path("rows.jsonl").write_text("".join(json.dumps({**rows, "seed": seed}) + "\n" for seed in (1, 2)))


def _kaldi_files() -> None:
    """Archives, alignments, a transition table and OpenFst graphs, all in ``kaldi``."""
    from asr_kd.graph.fst import Fst

    Path("kaldi").mkdir()
    run("frames export mfcc kaldi/feats.ark")
    matrices = {utt: FrameStore("mfcc").read(utt)["mfcc"].astype(np.float32) for utt in FrameStore("mfcc").utterances}
    with open("kaldi/text.ark", "w") as text:
        for utt, matrix in matrices.items():
            rows = "\n".join("  " + " ".join(f"{value:.5g}" for value in row) for row in matrix[:5])
            text.write(f"{utt}  [\n{rows} ]\n")
    content = Path("kaldi/feats.ark").read_bytes()
    Path("kaldi/feats.ark.gz").write_bytes(gzip.compress(content, mtime=0))
    Path("kaldi/compressed.ark").write_bytes(b"".join(_compressed(utt, form) for form, utt in enumerate("xyz", 1)))
    states = {utt: FrameStore("states").read(utt)["state"] for utt in matrices}
    lines = "".join(f"{utt} {' '.join(map(str, rows.tolist()))}\n" for utt, rows in states.items())
    Path("kaldi/ali.txt").write_text(lines)
    Path("kaldi/ali.1.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    for name, first in (("ali", 0), ("transitions", 1)):
        content = b"".join(_integers(utt, (rows.astype(int) + first).tolist()) for utt, rows in states.items())
        Path(f"kaldi/{name}.ark").write_bytes(content)
    pdfs = "".join(f"{number + 1} {number}\n" for number in range(60))
    Path("kaldi/transitions.txt").write_text(pdfs)
    write_model(Path("kaldi/final.mdl"), binary=True)
    write_model(Path("kaldi/loops.mdl"), binary=False, separate_loops=True)
    ids = b"".join(_integers(utt, [1 + row % 16 for row in range(len(rows))]) for utt, rows in states.items())
    Path("kaldi/ids.ark").write_bytes(ids)
    graph = Fst.read("graph/HCLG.fst")
    graph.write("kaldi/const.fst", "const")
    graph.write("kaldi/vector.fst", "vector")
    arrays = {utt: {"log_prob": np.log(np.full((5, 4), 0.25, np.float32))} for utt in matrices}
    write_arrays("kaldi/scores", StoreContent("features", {"log_prob": TensorSpec("float32", (4,))}), arrays)
    run("frames export kaldi/scores kaldi/scores.ark")


def _integers(utterance: str, values: list[int]) -> bytes:
    """A vector of integers as a binary archive holds it."""
    head = utterance.encode() + b" \0B\4" + struct.pack("<i", len(values))
    return head + b"".join(struct.pack("<bi", 4, value) for value in values)


def _compressed(utterance: str, form: int) -> bytes:
    """A matrix of 8 rows and 2 columns in Kaldi's compressed format ``form``: CM, CM2 or CM3."""
    rows, columns = 8, 2
    token = {1: b"CM ", 2: b"CM2 ", 3: b"CM3 "}[form]
    head = utterance.encode() + b" \0B" + token + struct.pack("<ffii", -1.0, 2.0, rows, columns)
    values = np.arange(rows * columns)
    if form == 1:
        return head + np.array([[0, 100, 200, 300]] * columns, "<u2").tobytes() + values.astype("u1").tobytes()
    return head + values.astype("<u2" if form == 2 else "u1").tobytes()


def _layouts() -> None:
    """Releases of AN4, FSDD, LibriSpeech and MNIST, each with a few files of its kind."""
    an4 = Path("an4/etc")
    an4.mkdir(parents=True)
    (an4 / "an4.dic").write_text("GO  G OW\nNO  N OW\nNO(2)  N AA\n")
    for part, speakers in (("train", range(4)), ("test", range(4, 6))):
        names = [f"an4_clstk/s{speaker}/an{n}-s{speaker}-b" for speaker in speakers for n in range(2)]
        (an4 / f"an4_{part}.fileids").write_text("".join(f"{name}\n" for name in names))
        lines = "".join(f"<s> GO NO </s> ({name.rpartition('/')[2]})\n" for name in names)
        (an4 / f"an4_{part}.transcription").write_text(lines)
        for name in names:
            path = Path("an4/wav") / f"{name}.raw"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((sound(0.1, len(name), 16000) * 30000).astype(">i2").tobytes())
    recordings = Path("fsdd/recordings")
    recordings.mkdir(parents=True)
    for index in (0, 4, 5, 9, 10, 49):
        soundfile.write(recordings / f"7_theo_{index}.wav", sound(0.1, index), 8000)
    _librispeech()
    Path("mnist").mkdir()
    for name, count in (("train", 12), ("t10k", 10)):
        images = np.arange(count * 6, dtype=np.uint8).tobytes()
        content = struct.pack(">4i", 0x803, count, 3, 2) + images
        Path(f"mnist/{name}-images-idx3-ubyte").write_bytes(content)
        labels = struct.pack(">2i", 0x801, count) + bytes(n % 10 for n in range(count))
        Path(f"mnist/{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, mtime=0))


def _librispeech() -> None:
    root = Path("libri/LibriSpeech")
    for part, speakers in (("train-clean-5", "12"), ("dev-clean-2", "3456")):
        for speaker in speakers:
            chapter = root / part / speaker / "7"
            chapter.mkdir(parents=True)
            names = [f"{speaker}-7-{n:04}" for n in range(2)]
            (chapter / f"{speaker}-7.trans.txt").write_text("".join(f"{name} IT'S A TEST\n" for name in names))
            for name in names:
                soundfile.write(chapter / f"{name}.flac", sound(0.05, 1, 16000), 16000)
    lines = [f"{n:<4} | {'F' if n % 2 else 'M'} | part | 1.0 | Name" for n in range(1, 7)]
    (root / "SPEAKERS.TXT").write_text("\n".join([";ID | SEX |", *lines]) + "\n")
    Path("libri_lm").mkdir()
    Path("libri_lm/librispeech-lexicon.txt").write_text("A\tAH0\nIT'S\tIH1 T S\nTEST\tT EH1 S T\n")
    shutil.copy("lm.arpa.gz", "libri_lm/small.arpa.gz")
