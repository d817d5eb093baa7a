"""Every source a user can name: what comes out, and the words for what cannot."""

import gzip

import numpy as np
import pytest

from fedsim.data.sources import IDX_FILES, KEYS, load
from tests.data.idx_files import encode

ARRAYS = {
    "x_train": np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3),
    "y_train": np.array([0, 2], np.uint8),
    "x_test": np.arange(36, dtype=np.uint8).reshape(3, 4, 3),
    "y_test": np.array([1, 1, 2], np.uint8),
}


def write_folder(folder, *, packed=(), **changes):
    folder.mkdir(exist_ok=True)
    for name, array in zip(IDX_FILES, (ARRAYS | changes).values(), strict=True):
        data = encode(array)
        if name in packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


def check(dataset, name):
    assert (dataset.name, dataset.classes) == (name, 3)
    assert dataset.train.inputs.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train.inputs[:, 0], ARRAYS["x_train"])
    np.testing.assert_array_equal(dataset.test.inputs[:, 0], ARRAYS["x_test"])
    assert dataset.train.labels.tolist() == [0, 2]
    assert dataset.test.labels.tolist() == [1, 1, 2]
    assert dataset.train.labels.dtype == dataset.test.labels.dtype == np.int64


def test_mnist_is_the_one_in_the_package():
    dataset = load("mnist")
    assert (dataset.name, len(dataset.train.labels), len(dataset.test.labels)) == ("mnist", 60_000, 10_000)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_archive_comes_back_as_it_was_saved(tmp_path, write):
    write(tmp_path / "own.npz", extra=np.zeros(1), **ARRAYS)
    check(load(str(tmp_path / "own.npz")), "own")


@pytest.mark.parametrize("packed", [(), IDX_FILES, IDX_FILES[1:3]])
def test_a_folder_of_idx_files_comes_back_packed_or_not(tmp_path, packed):
    check(load(str(write_folder(tmp_path / "own", packed=packed))), "own")


def test_float_images_come_back_from_both(tmp_path):
    floats = {key: ARRAYS[key].astype(np.float32) / 7 for key in ("x_train", "x_test")}
    np.savez(tmp_path / "own.npz", **(ARRAYS | floats))
    write_folder(tmp_path / "own", **floats)
    for source in (tmp_path / "own.npz", tmp_path / "own"):
        dataset = load(str(source))
        assert dataset.train.inputs.dtype == np.float32
        np.testing.assert_array_equal(dataset.train.inputs[:, 0], floats["x_train"])


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    np.savez(tmp_path / "own.npz", **ARRAYS)
    check(load("~/own.npz"), "own")


def refusal(source):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        load(str(source))
    text = str(refused.value)
    assert text.startswith(f"data.source = {source}: ")
    assert "\n" not in text
    return text.removeprefix(f"data.source = {source}: ")


@pytest.mark.parametrize("source", ["minst", "cifar10", "images.npy", "absent/folder"])
def test_what_is_no_source_is_refused(source, tmp_path, monkeypatch):
    (tmp_path / "images.npy").touch()
    monkeypatch.chdir(tmp_path)
    assert refusal(source) == 'allowed are "mnist", an .npz file and a folder of idx files'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "lacks y_test; it holds x_train, y_train, x_test"),
        (dict.fromkeys(KEYS) | {"images": np.zeros(1)}, f"lacks {', '.join(KEYS)}; it holds images"),
        (
            {"x_train": ARRAYS["x_train"].astype(np.int16)},
            "x_train is int16; allowed are uint8 (0 to 255, divided by 255) and float32 (used as it is)",
        ),
        ({"y_train": np.array([0, 2, 1])}, "x_train has 2 examples, y_train has 3 labels: they must be as many"),
        (
            {"y_train": np.array(["cat", "dog"], object)},
            "y_train cannot be read: Object arrays cannot be loaded when allow_pickle=False",
        ),
    ],
)
def test_a_bad_archive_is_refused(tmp_path, changes, message):
    arrays = {key: array for key, array in (ARRAYS | changes).items() if array is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    assert refusal(tmp_path / "own.npz") == message


def test_an_archive_that_is_absent_or_something_else_is_refused(tmp_path):
    assert refusal(tmp_path / "absent.npz") == "cannot be read: No such file or directory"
    (tmp_path / "own.npz").write_bytes(b"text")
    assert refusal(tmp_path / "own.npz") == "not an .npz archive: File is not a zip file"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train-images-idx3-ubyte",
            None,
            "lacks train-images-idx3-ubyte (or train-images-idx3-ubyte.gz)",
        ),
        (
            "t10k-labels-idx1-ubyte",
            gzip.compress(encode(ARRAYS["y_test"])),
            "t10k-labels-idx1-ubyte: not an idx file: it starts with 1f 8b 08 00",
        ),
        (
            "t10k-images-idx3-ubyte",
            encode(ARRAYS["x_test"])[:-1],
            "t10k-images-idx3-ubyte: 51 bytes; its header [3, 4, 3] uint8 calls for 52",
        ),
        (
            "train-labels-idx1-ubyte",
            encode(np.array([0.0, 1.0])),
            "train-labels-idx1-ubyte is >f8; allowed are integers",
        ),
        (
            "train-labels-idx1-ubyte",
            encode(np.array([0, -3], np.int16)),
            "train-labels-idx1-ubyte holds label -3; allowed are 0 to 65,535",
        ),
        (
            "t10k-images-idx3-ubyte",
            encode(ARRAYS["x_test"].reshape(3, 3, 4)),
            "train-images-idx3-ubyte holds uint8 [1, 4, 3], t10k-images-idx3-ubyte holds uint8 [1, 3, 4]: "
            "they must be alike",
        ),
        (
            "t10k-images-idx3-ubyte",
            encode(ARRAYS["x_test"][:0]),
            "t10k-images-idx3-ubyte has shape [0, 4, 3]: it must not be empty",
        ),
    ],
)
def test_a_bad_idx_file_is_refused(tmp_path, name, content, message):
    path = write_folder(tmp_path / "own") / name
    path.unlink() if content is None else path.write_bytes(content)
    assert refusal(tmp_path / "own") == message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text", "Not a gzipped file (b'te')"),
        (gzip.compress(bytes(100))[:-9], "Compressed file ended before the end-of-stream marker was reached"),
        (gzip.compress(bytes(100))[:10] + b"\x07" * 20, "Error -3 while decompressing data"),
    ],
)
def test_a_damaged_gzip_file_is_refused(tmp_path, content, reason):
    folder = write_folder(tmp_path / "own", packed=IDX_FILES[:1])
    (folder / f"{IDX_FILES[0]}.gz").write_bytes(content)
    assert refusal(folder).startswith(f"{IDX_FILES[0]}.gz: damaged gzip file: {reason}")
