"""MNIST: idx files into one-frame utterances, and damaged files are refused by name."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from asr_kd.corpus.download import Archive
from asr_kd.corpus.mnist import FILES, Part, download_mnist, prepare_mnist
from asr_kd.errors import UserError

IMAGES = np.random.default_rng(0).integers(256, size=(12, 3, 2)).astype(np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 0, 7, 8, 5], np.uint8)


def header(*shape: int) -> bytes:
    return np.array([0x0800 + len(shape), *shape], ">u4").tobytes()


def idx(array: np.ndarray) -> bytes:
    return header(*array.shape) + array.tobytes()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same bytes at any time: a test is called after them


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    folder.mkdir()
    for name in FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(IMAGES if "images" in name else LABELS)))
    return folder


def read(part: Part) -> tuple[np.ndarray, list[int]]:
    names = sorted(part.pixels.frame_counts)
    pixels = np.concatenate([part.pixels.read(name)["pixel"] for name in names])
    return pixels, [int(part.classes.read(name)["state"][0]) for name in names]


def test_an_image_is_a_frame_and_its_class_a_state_and_a_word(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_kd.corpus.mnist.DEV", 2)
    parts = prepare_mnist(release, tmp_path)
    pixels, classes = read(parts["train"])
    assert np.array_equal(pixels, (IMAGES.reshape(12, 6) / np.float32(255)).astype(np.float16))
    assert classes == LABELS.tolist()
    assert sorted(parts["dev"].pixels.frame_counts) == ["train-00010", "train-00011"]
    assert read(parts["dev"])[1] == [8, 5]
    assert parts["test"].classes.config["num_states"] == 10
    assert (tmp_path / "test" / "text").read_text().splitlines()[2] == "test-00002 4"


def test_files_may_lie_there_without_compression(release: Path, tmp_path: Path) -> None:
    for path in release.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert read(prepare_mnist(release, tmp_path)["test"])[1] == LABELS.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(idx(IMAGES)[:-1]), r"the header promises 12 x 3 x 2 bytes, but 71 follow; the file is truncated"),
        (packed(idx(IMAGES) + b"\0"), r"12 x 3 x 2 bytes, but 73 follow"),
        (packed(idx(IMAGES)[:10]), r"10 bytes; too short for an idx file; download it again"),
        (packed(header(2**31, 2**31, 4)), r"the header promises 2147483648 x 2147483648 x 4 bytes, but 0 follow"),
        (packed(header(0, 28, 28)), r"the header promises 0 x 28 x 28 bytes, so no data at all"),
        (packed(idx(IMAGES[:, :0])), r"the header promises 12 x 0 x 2 bytes, so no data at all"),
        (packed(idx(LABELS) * 3), r"magic number 0x00000801, expected 0x00000803"),
        (packed(idx(IMAGES))[:-20], r"truncated or damaged gzip file"),
        (idx(IMAGES), r"truncated or damaged gzip file"),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_written(
    release: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    (release / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=rf"t10k-images-idx3-ubyte.gz: .*{message}"):
        prepare_mnist(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_must_be_as_many_as_images_and_digits(release: Path, tmp_path: Path) -> None:
    path = release / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(LABELS[:5])))
    with pytest.raises(UserError, match=r"train-labels.*: 5 labels for 12 images"):
        prepare_mnist(release, tmp_path / "out")
    path.write_bytes(gzip.compress(idx(LABELS + np.uint8(5))))
    with pytest.raises(UserError, match=r"label 5 is 14; expected 0 to 9"):
        prepare_mnist(release, tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match=r"neither train-labels-idx1-ubyte.gz nor"):
        prepare_mnist(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_to_test_on_have_the_size_of_those_to_train_on(release: Path, tmp_path: Path) -> None:
    (release / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES.reshape(12, 2, 3))))
    with pytest.raises(UserError, match=r"release: training images are 3 x 2, test images 2 x 3; expected the same"):
        prepare_mnist(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["train", "t10k"])
def test_a_class_without_an_image_is_named(release: Path, tmp_path: Path, file: str) -> None:
    labels = np.where(np.isin(LABELS, [3, 7]), np.uint8(1), LABELS)
    (release / f"{file}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    message = rf"{file}-labels-idx1-ubyte.gz: no image of class 3, 7 among 12; expected all of 0 to 9"
    with pytest.raises(UserError, match=message):
        prepare_mnist(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_downloaded_is_checked(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(archive: Archive, folder: Path) -> Path:
        return Path((release / archive.name).rename(folder / archive.name))

    monkeypatch.setattr("asr_kd.corpus.mnist.download", fake)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz: the md5 of its content is .*; it was removed"):
        download_mnist(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_the_real_corpus_has_its_official_size(corpora: Path, tmp_path: Path) -> None:
    parts = prepare_mnist(corpora / "mnist", tmp_path)
    assert [part.pixels.total_frames for part in parts.values()] == [60_000, 10_000, 10_000]
    words = [line.split()[1] for line in (tmp_path / "test" / "text").read_text().splitlines()]
    assert words.count("3") == 1010
