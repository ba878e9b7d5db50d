"""Speed perturbation (Ko et al., Interspeech 2015) and sub-frame shifts: modified copies of a data directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asr_kd.corpus.audio import audio_info, load_audio, write_flac
from asr_kd.corpus.datadir import DataDir, check_apart, read_data_dir, write_data_dir
from asr_kd.corpus.made import begin_making, content_of, end_making, is_made
from asr_kd.corpus.validate import SHORTEST
from asr_kd.errors import UserError, counted
from asr_kd.files import file_name
from asr_kd.parallel import parallel_map
from asr_kd.progress import progress

FRAME_ADVANCE = 0.010  # seconds from one frame to the next; features are configured only later


def perturb_speed(
    datadir: DataDir, out: str | Path, speeds: Sequence[float], shifts: Sequence[float] = (0.0,), jobs: int = 1
) -> DataDir:
    """Write a data directory ``out`` with a copy of each utterance at each speed and shift, as FLAC in ``out/audio``.

    Pitch and tempo change together. A shift drops a fraction of one frame's advance from the beginning of the
    resampled audio, so that every frame covers a slightly different stretch of signal. A copy's ids are
    ``sp0.9-sh0.25-UTTERANCE`` (``sp0.9-UTTERANCE`` without a shift, ``sh0.25-UTTERANCE`` at speed 1) and
    ``sp0.9-SPEAKER``: another speed counts as another speaker in normalisation, a shift does not. Speed 1 without a
    shift is skipped, because ``datadir`` has it already. An ``out`` that was made from the same content with the same
    speeds and shifts is kept; any other is overwritten.

    Raises ``UserError`` for invalid speeds and shifts, and for an utterance that a shift would leave shorter than a
    frame.
    """
    copies = _copies(speeds, shifts)
    check_apart(out, [datadir])
    out = Path(out).resolve()
    originals = _originals(datadir, copies)
    settings = {"content": content_of(datadir), "speeds": list(speeds), "shifts": list(shifts)}
    if is_made(out, settings):
        return read_data_dir(out)
    begin_making(out)
    tasks = [(datadir.subset([utt]), out, copies) for utt in datadir.utterances]
    wav: dict[str, Path] = {}
    for paths in progress(parallel_map(_perturb, tasks, jobs), len(tasks), "perturbation"):
        wav |= paths
    written = write_data_dir(
        out,
        wav,
        text={name: datadir.text[utt] for name, (_, utt) in originals.items() if utt in datadir.text},
        utt2spk={name: _prefix(speed) + datadir.utt2spk[utt] for name, (speed, utt) in originals.items()},
    )
    end_making(out, settings)
    return written


def _copies(speeds: Sequence[float], shifts: Sequence[float]) -> dict[float, tuple[float, ...]]:
    """Speed -> its shifts, without the copy that would equal the original."""
    named = f"--speeds {_listed(speeds)}", f"--shifts {_listed(shifts)}"
    if not all(0.5 <= speed <= 2 for speed in speeds) or len(set(speeds)) != len(speeds):
        raise UserError(f"{named[0]}: expected distinct factors from 0.5 to 2")
    if not all(0 <= shift < 1 for shift in shifts) or len(set(shifts)) != len(shifts):
        raise UserError(f"{named[1]}: expected distinct fractions of the frame shift, at least 0 and below 1")
    copies = {speed: tuple(shift for shift in shifts if speed != 1 or shift) for speed in speeds}
    if not any(copies.values()):
        raise UserError(f"{' '.join(named)}: nothing to do; expected a speed other than 1 or a shift other than 0")
    return copies


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _prefix(speed: float, shift: float = 0.0) -> str:
    """The prefix of a copy's ids."""
    return (f"sp{speed:g}-" if speed != 1 else "") + (f"sh{shift:g}-" if shift else "")


def _originals(datadir: DataDir, copies: Mapping[float, Sequence[float]]) -> dict[str, tuple[float, str]]:
    """Id of a copy -> its speed and its original utterance."""
    originals: dict[str, tuple[float, str]] = {}
    for speed, shifts in copies.items():
        for shift in shifts:
            for utt in datadir.utterances:
                name = _prefix(speed, shift) + utt
                if name in originals:
                    raise UserError(
                        f"{datadir.path}: copies of {originals[name][1]!r} and {utt!r} would both be called {name!r}; "
                        "rename one, or choose other --speeds and --shifts"
                    )
                originals[name] = speed, utt
    return originals


def _perturb(task: tuple[DataDir, Path, dict[float, tuple[float, ...]]]) -> dict[str, Path]:
    """Write one utterance at each speed (resampled once) and each shift."""
    import soxr

    datadir, out, copies = task
    (utt,) = datadir.utterances
    (entry,) = datadir.wav.values()
    rate = audio_info(entry, pipes=True).sample_rate
    samples = load_audio(datadir, utt, rate)
    paths = {}
    for speed, shifts in copies.items():
        faster = samples if speed == 1 else np.asarray(soxr.resample(samples, rate * speed, rate), dtype=np.float32)
        for shift in shifts:
            dropped = round(shift * FRAME_ADVANCE * rate)
            left = len(faster) - dropped
            if shift and left < SHORTEST * rate:
                raise UserError(
                    f"{utt} ({entry}): at speed {speed:g} a shift of {shift:g} leaves {counted(left, 'sample')}, less"
                    f" than one frame ({SHORTEST} s); leave the utterance out of {datadir.path}"
                )
            name = _prefix(speed, shift) + utt
            paths[name] = out / "audio" / f"{file_name(name)}.flac"
            write_flac(paths[name], faster[dropped:], rate)
    return paths
