"""MNIST's handwritten digits as one-frame utterances: an image is a frame, a class is a state."""

import dataclasses
import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr_kd.corpus.download import Archive, download
from asr_kd.errors import UserError, counted
from asr_kd.files import write_text
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays

CLASSES = 10
DEV = 10_000  # the last images of train, used for tuning
_IMAGES, _LABELS = 0x00000803, 0x00000801  # magic numbers of idx files of bytes, in 3 dimensions and in 1
_RELEASE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {  # name -> MD5 of the uncompressed file
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One set: its ``pixels [images, 1, pixels]`` from 0 (paper) to 1 (ink), and the class of each image."""

    pixels: FrameStore
    classes: FrameStore


def prepare_mnist(corpus_dir: str | Path, out: str | Path) -> dict[str, Part]:
    """Write ``out/SET/{feats,states}``, stores of ``train`` (all images), ``dev`` (its last 10,000) and ``test``.

    ``out/SET/text`` has the class of each image as its only word, so that the word error rate is the classification
    error. An utterance is named after its file and index: ``train-00042``. Raises ``UserError``, before anything is
    written, for a file that is missing, empty, truncated or of the wrong kind, for different numbers of labels and
    images, for a class without images, and for sets with images of different sizes.
    """
    images, labels = _read_set(corpus_dir, "train")
    test_images, test_labels = _read_set(corpus_dir, "t10k")  # read both sets before writing anything
    if test_images.shape[1:] != images.shape[1:]:
        size, test_size = (" x ".join(map(str, each.shape[1:])) for each in (images, test_images))
        raise UserError(f"{corpus_dir}: training images are {size}, test images {test_size}; expected the same size")
    first = max(len(images) - DEV, 0)
    return {
        "train": _write(Path(out) / "train", "train", images, labels, 0),
        "dev": _write(Path(out) / "dev", "train", images[first:], labels[first:], first),
        "test": _write(Path(out) / "test", "test", test_images, test_labels, 0),
    }


def download_mnist(folder: Path) -> Path:
    """Download the official files into ``folder``, once, and check their uncompressed content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in FILES.items():
        path = download(Archive(f"{_RELEASE}{name}.gz"), folder)
        found = hashlib.md5(_bytes(path), usedforsecurity=False).hexdigest()
        if found != md5:
            path.unlink()
            raise UserError(f"{path}: the md5 of its content is {found}, expected {md5}; it was removed: run again")
    return folder


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The content of an idx file, compressed or not: ``[images, rows, columns]`` or ``[labels]``.

    Raises ``UserError`` for a wrong ``magic`` number, an empty dimension, and more or fewer bytes than stated.
    """
    content = _bytes(path)
    dimensions = magic & 0xFF
    header = 4 * (1 + dimensions)
    if len(content) < header:
        raise UserError(f"{path}: {len(content)} bytes; too short for an idx file; download it again")
    found, *shape = (int(number) for number in np.frombuffer(content[:header], ">u4"))
    if found != magic:
        raise UserError(
            f"{path}: magic number {found:#010x}, expected {magic:#010x}: not this kind of idx file; download it again"
        )
    size = " x ".join(map(str, shape))
    if 0 in shape:
        raise UserError(
            f"{path}: the header promises {size} bytes, so no data at all; the file is damaged: download it again"
        )
    if len(content) - header != math.prod(shape):  # Python's integers: numpy's would overflow, to 0 for 2^31 x 2^31 x 4
        raise UserError(
            f"{path}: the header promises {size} bytes, but {len(content) - header:,} follow; the file is truncated or "
            "damaged: download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_set(corpus_dir: str | Path, file: str) -> tuple[np.ndarray, np.ndarray]:
    """The images ``[images, rows, columns]`` and labels ``[images]`` of ``file``, which is ``train`` or ``t10k``.

    Raises ``UserError`` unless there are as many labels as images, and each class has at least one image.
    """
    images = read_idx(_find(corpus_dir, f"{file}-images-idx3-ubyte"), _IMAGES)
    path = _find(corpus_dir, f"{file}-labels-idx1-ubyte")
    labels = read_idx(path, _LABELS)
    if len(labels) != len(images):
        raise UserError(
            f"{path}: {counted(len(labels), 'label')} for {counted(len(images), 'image')}; download both again"
        )
    if labels.max() >= CLASSES:
        place = int(labels.argmax())
        raise UserError(f"{path}: label {place} is {labels[place]}; expected 0 to {CLASSES - 1}; download it again")
    missing = np.setdiff1d(np.arange(CLASSES), labels)
    if len(missing):
        raise UserError(
            f"{path}: no image of class {', '.join(map(str, missing))} among {len(labels):,}; expected all of 0 to "
            f"{CLASSES - 1}: download the whole release; to train on some classes only, use asr-kd train --utterances"
        )
    return images, labels


def _find(corpus_dir: str | Path, name: str) -> Path:
    for path in (Path(corpus_dir) / f"{name}.gz", Path(corpus_dir) / name):
        if path.is_file():
            return path
    raise UserError(f"{corpus_dir}: neither {name}.gz nor {name} found; MNIST has {', '.join(FILES)}")


def _bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as stream:
            return stream.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: truncated or damaged gzip file ({error}); download it again") from None


def _write(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray, first: int) -> Part:
    names = [f"{prefix}-{number:05d}" for number in range(first, first + len(images))]
    pixels = (images.reshape(len(images), 1, -1) / np.float32(255)).astype(np.float16)
    words = "".join(f"{name} {label}\n" for name, label in zip(names, labels, strict=True))
    write_text(folder / "text", words)
    feats = StoreContent("features", {"pixel": TensorSpec("float16", pixels.shape[2:])})
    states = StoreContent("states", {"state": TensorSpec("uint16")}, {"num_states": CLASSES})
    digits = labels[:, None].astype(np.uint16)
    return Part(
        write_arrays(folder / "feats", feats, dict(_each(names, "pixel", pixels)), WriteOptions(force=True)),
        write_arrays(folder / "states", states, dict(_each(names, "state", digits)), WriteOptions(force=True)),
    )


def _each(names: list[str], tensor: str, rows: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for name, row in zip(names, rows, strict=True):
        yield name, {tensor: row}
