"""Speed perturbation (Ko et al., Interspeech 2015): copies of a data directory that are faster or slower."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asr_kd.corpus.audio import audio_info, load_audio, write_flac
from asr_kd.corpus.datadir import DataDir, check_apart, write_data_dir
from asr_kd.errors import UserError
from asr_kd.parallel import parallel_map
from asr_kd.progress import progress


def perturb_speed(datadir: DataDir, out: str | Path, speeds: Sequence[float], jobs: int = 1) -> DataDir:
    """A data directory ``out`` with a copy of each utterance at each speed, as FLAC in ``out/audio``.

    Pitch and tempo change together. A copy's ids are ``sp0.9-UTTERANCE`` and ``sp0.9-SPEAKER``: another speed is
    another speaker for normalisation. Speed 1 is left out, since ``datadir`` is that already.
    """
    speeds = [speed for speed in speeds if speed != 1]
    if not speeds or min(speeds) < 0.5 or max(speeds) > 2 or len(set(speeds)) != len(speeds):
        raise UserError(f"--speeds {','.join(map(str, speeds))}: expected distinct factors from 0.5 to 2, besides 1")
    check_apart(out, [datadir])
    out = Path(out).resolve()
    tasks = [(datadir.subset([utt]), out, tuple(speeds)) for utt in datadir.utterances]
    wav: dict[str, Path] = {}
    for paths in progress(parallel_map(_perturb, tasks, jobs), len(tasks), "speed perturbation"):
        wav |= paths
    originals = [(f"sp{speed:g}-", utt) for speed in speeds for utt in datadir.utterances]
    return write_data_dir(
        out,
        wav,
        text={prefix + utt: datadir.text[utt] for prefix, utt in originals if utt in datadir.text},
        utt2spk={prefix + utt: prefix + datadir.utt2spk[utt] for prefix, utt in originals},
    )


def _perturb(task: tuple[DataDir, Path, tuple[float, ...]]) -> dict[str, Path]:
    """Write one utterance at each speed."""
    import soxr

    datadir, out, speeds = task
    (utt,) = datadir.utterances
    (entry,) = datadir.wav.values()
    rate = audio_info(entry, pipes=True).sample_rate
    samples = load_audio(datadir, utt, rate)
    paths = {}
    for speed in speeds:
        name = f"sp{speed:g}-{utt}"
        paths[name] = out / "audio" / f"{name}.flac"
        faster = soxr.resample(samples, rate * speed, rate)
        write_flac(paths[name], np.asarray(faster, dtype=np.float32), rate)
    return paths
