"""MNIST's handwritten digits as utterances of one frame: an image is a frame, a class is a state."""

import dataclasses
import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr_kd.corpus.download import Archive, download
from asr_kd.errors import UserError
from asr_kd.files import write_text
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays

CLASSES = 10
DEV = 10_000  # the last images of train, to tune on
_IMAGES, _LABELS = 0x00000803, 0x00000801  # what an idx file of bytes in 3 and in 1 dimensions begins with
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

    ``out/SET/text`` has the class of each image as its only word, so that error rates of words are those of classes.
    An utterance is called after its file and its place there: ``train-00042``. Raises ``UserError``, before anything is
    written, for a file that is missing, empty, cut, or not what its name says, for another number of labels than
    images, for a class without an image, and where images of the two sets differ in size.
    """
    images, labels = _read_set(corpus_dir, "train")
    test_images, test_labels = _read_set(corpus_dir, "t10k")  # before the first output, or damage would leave half
    if test_images.shape[1:] != images.shape[1:]:
        size, test_size = (" x ".join(map(str, each.shape[1:])) for each in (images, test_images))
        raise UserError(f"{corpus_dir}: images of {size} to train on, of {test_size} to test on; expected one size")
    first = max(len(images) - DEV, 0)
    return {
        "train": _write(Path(out) / "train", "train", images, labels, 0),
        "dev": _write(Path(out) / "dev", "train", images[first:], labels[first:], first),
        "test": _write(Path(out) / "test", "test", test_images, test_labels, 0),
    }


def download_mnist(folder: Path) -> Path:
    """The official files, fetched into ``folder`` once; their uncompressed bytes are checked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in FILES.items():
        path = download(Archive(f"{_RELEASE}{name}.gz"), folder)
        found = hashlib.md5(_bytes(path), usedforsecurity=False).hexdigest()
        if found != md5:
            path.unlink()
            raise UserError(f"{path}: its content has the md5 {found}, not {md5}; removed it: run again")
    return folder


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The bytes of an idx file, compressed or not, in the shape that its header gives: ``[images, rows, columns]`` or
    ``[labels]``. Raises ``UserError`` for another ``magic`` number, for an empty dimension, and for more or fewer bytes
    than announced."""
    content = _bytes(path)
    dimensions = magic & 0xFF
    header = 4 * (1 + dimensions)
    if len(content) < header:
        raise UserError(f"{path}: {len(content)} bytes; an idx file begins with a header of {header}")
    found, *shape = (int(number) for number in np.frombuffer(content[:header], ">u4"))
    if found != magic:
        raise UserError(f"{path}: begins with {found:#010x}, but {magic:#010x} was expected: not this kind of idx file")
    size = " x ".join(map(str, shape))
    if 0 in shape:
        raise UserError(
            f"{path}: {size} bytes are announced, which is nothing; at least one of each was expected; it is empty or"
            " damaged: get it again"
        )
    if len(content) - header != math.prod(shape):  # of Python's numbers: numpy's overflow, to 0 for 2^31 x 2^31 x 4
        raise UserError(
            f"{path}: {size} bytes are announced, {len(content) - header:,} follow; it is cut or damaged: get it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_set(corpus_dir: str | Path, file: str) -> tuple[np.ndarray, np.ndarray]:
    """The images ``[images, rows, columns]`` of ``file``, ``train`` or ``t10k``, and their labels ``[images]``.

    Raises ``UserError`` unless there are as many of both, and an image at least of each class, but of no other.
    """
    images = read_idx(_find(corpus_dir, f"{file}-images-idx3-ubyte"), _IMAGES)
    path = _find(corpus_dir, f"{file}-labels-idx1-ubyte")
    labels = read_idx(path, _LABELS)
    if len(labels) != len(images):
        raise UserError(f"{path}: {len(labels):,} labels, but there are {len(images):,} images beside it")
    if labels.max() >= CLASSES:
        place = int(labels.argmax())
        raise UserError(f"{path}: label {place} is {labels[place]}; expected 0 to {CLASSES - 1}")
    missing = np.setdiff1d(np.arange(CLASSES), labels)
    if len(missing):
        raise UserError(
            f"{path}: no image of class {', '.join(map(str, missing))} among {len(labels):,}; expected each of 0 to"
            f" {CLASSES - 1}: get the whole release; to train on some classes only, use asr-kd train --utterances"
        )
    return images, labels


def _find(corpus_dir: str | Path, name: str) -> Path:
    for path in (Path(corpus_dir) / f"{name}.gz", Path(corpus_dir) / name):
        if path.is_file():
            return path
    raise UserError(f"{corpus_dir}: no {name}.gz, nor {name} without compression; MNIST has {', '.join(FILES)}")


def _bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as stream:
            return stream.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); get it again") from None


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
