"""The package's MNIST: the canonical bytes, and a cache that survives damage, races and folders that refuse."""

import gzip
import hashlib
import mmap
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fedsim.data
from fedsim.data.packaged import MD5, cache_folder, mnist

PACKAGE = Path(fedsim.data.__file__).parent
TRAIN_HISTOGRAM = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_HISTOGRAM = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnist"


def raw_digests(dataset):
    """MD5 of the four idx files, put together again from what was loaded."""
    parts = (dataset.train, dataset.test)
    images = [bytes.fromhex(f"00000803{len(p.labels):08x}0000001c0000001c") + p.inputs.tobytes() for p in parts]
    labels = [bytes.fromhex(f"00000801{len(p.labels):08x}") + p.labels.astype(np.uint8).tobytes() for p in parts]
    files = (images[0], labels[0], images[1], labels[1])
    return [hashlib.md5(file, usedforsecurity=False).hexdigest() for file in files]


def is_mapped(array):
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return isinstance(array.obj if isinstance(array, memoryview) else array, mmap.mmap)


def test_mnist_is_the_canonical_data_set(cache):
    dataset = mnist()
    assert raw_digests(dataset) == list(MD5.values())
    assert (dataset.name, dataset.classes) == ("mnist", 10)
    assert dataset.train.inputs.shape == (60_000, 1, 28, 28)
    assert dataset.test.inputs.shape == (10_000, 1, 28, 28)
    assert dataset.train.inputs.dtype == dataset.test.inputs.dtype == np.uint8
    assert np.bincount(dataset.train.labels).tolist() == TRAIN_HISTOGRAM
    assert np.bincount(dataset.test.labels).tolist() == TEST_HISTOGRAM
    assert round(float(dataset.train.inputs.mean()) / 255, 4) == 0.1307  # the mean every MNIST tutorial subtracts


def test_images_are_read_only_maps_of_the_cached_files(cache):
    for examples in (mnist().train, mnist().test):
        assert is_mapped(examples.inputs)
        assert not examples.inputs.flags.writeable
    assert sorted(path.name for path in cache.iterdir()) == sorted(MD5)


def flipped(data):
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: data + b"\0", flipped])
def test_a_damaged_cache_is_made_anew_and_what_is_mapped_stays_whole(cache, damage):
    before = mnist()
    sound = cache / "t10k-labels-idx1-ubyte"
    kept = sound.stat().st_mtime_ns
    images = cache / "t10k-images-idx3-ubyte"
    content = images.read_bytes()
    images.unlink()
    images.write_bytes(damage(content))
    assert raw_digests(mnist()) == raw_digests(before) == list(MD5.values())
    assert images.read_bytes() == content
    assert sound.stat().st_mtime_ns == kept


def load_when_all_are_ready(barrier, results):
    barrier.wait(60)
    results.put(raw_digests(mnist()))


def test_processes_may_load_for_the_first_time_at_once(cache):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=load_when_all_are_ready, args=(barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [list(MD5.values())] * 2
    for process in processes:
        process.join()
    assert sorted(path.name for path in cache.iterdir()) == sorted(MD5)


def test_where_nothing_can_be_written_the_images_are_held_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "file"))
    dataset = mnist()
    assert raw_digests(dataset) == list(MD5.values())
    assert not is_mapped(dataset.train.inputs)
    assert not dataset.train.inputs.flags.writeable


def test_one_file_that_cannot_be_replaced_does_not_keep_the_others_from_the_cache(cache):
    (cache / "train-images-idx3-ubyte").mkdir(parents=True)
    dataset = mnist()
    assert raw_digests(dataset) == list(MD5.values())
    assert not is_mapped(dataset.train.inputs)
    assert is_mapped(dataset.test.inputs)


def relabelled(data):
    return gzip.compress(flipped(gzip.decompress(data)))


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"text", relabelled, lambda data: None])
def test_a_damaged_package_says_so(tmp_path, damage):
    copy = shutil.copytree(PACKAGE, tmp_path / "fedsim" / "data")
    (tmp_path / "fedsim" / "__init__.py").touch()
    packed = copy / "mnist" / "train-labels-idx1-ubyte.gz"
    content = damage(packed.read_bytes())
    packed.unlink() if content is None else packed.write_bytes(content)
    program = "from fedsim.data.packaged import mnist; mnist()"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"FEDSIM_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    words = "ValueError: fedsim/data/mnist/train-labels-idx1-ubyte.gz is damaged, install fedsim again: "
    assert words in ended.stderr
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == ["train-images-idx3-ubyte"]


@pytest.mark.parametrize(
    ("environment", "platform", "folder"),
    [
        ({"FEDSIM_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "linux", Path("/a")),
        ({"FEDSIM_CACHE": "~/a"}, "linux", Path.home() / "a"),
        ({"FEDSIM_CACHE": "", "XDG_CACHE_HOME": "/b"}, "darwin", Path("/b/fedsim")),
        ({}, "linux", Path.home() / ".cache" / "fedsim"),
        ({}, "darwin", Path.home() / "Library" / "Caches" / "fedsim"),
        ({"LOCALAPPDATA": "/c"}, "win32", Path("/c/fedsim")),
        ({"LOCALAPPDATA": "/c"}, "linux", Path.home() / ".cache" / "fedsim"),
        ({}, "win32", Path.home() / ".cache" / "fedsim"),
    ],
)
def test_the_cache_is_where_the_user_or_the_platform_says(environment, platform, folder):
    assert cache_folder(environment, platform) == folder
