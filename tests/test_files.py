"""Files written whole or not at all; archives of arrays that are damaged in every way a byte can be."""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.files import read_archive, write_atomically


def test_readers_see_one_writer_whole(tmp_path):
    path = tmp_path / "made" / "on the way" / "file"
    contents = [bytes([value]) * 100_000 for value in range(20)]
    write_atomically(path, contents[0])
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(write_atomically, path, content) for content in contents]
        while not all(write.done() for write in writes):
            assert path.read_bytes() in contents
    assert [write.result() for write in writes] == [None] * 20
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").touch()
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def archive(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_arrays_come_in_the_order_asked_for(tmp_path):
    (tmp_path / "a.npz").write_bytes(archive(x=np.arange(3), y=np.ones((2, 2), np.float32)))
    y, x = read_archive(tmp_path / "a.npz", ["y", "x"])
    np.testing.assert_array_equal(x, np.arange(3))
    np.testing.assert_array_equal(y, np.ones((2, 2), np.float32))


def test_pickled_objects_are_never_loaded(tmp_path):
    (tmp_path / "a.npz").write_bytes(archive(x=np.array([{"any": "object"}], dtype=object)))
    with pytest.raises(ValueError, match="x cannot be read: Object arrays cannot be loaded when allow_pickle=False"):
        read_archive(tmp_path / "a.npz", ["x"])


def test_what_is_no_archive_or_lacks_arrays_is_refused_in_words(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"^not an \.npz archive: File is not a zip file$"):
        read_archive(path, ["x"])
    path.write_bytes(archive(a=np.zeros(1), b=np.zeros(1)))
    with pytest.raises(ValueError, match=r"^lacks x, y; it holds a, b$"):
        read_archive(path, ["x", "a", "y"])
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(ValueError, match=r"^lacks x; it holds nothing$"):
        read_archive(path, ["x"])


GOOD = archive(x=np.arange(5))


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.booleans())
def test_a_damaged_archive_is_refused_or_unharmed(tmp_path_factory, position, change, cut):
    damaged = bytearray(GOOD)
    damaged[position] ^= change
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    path.write_bytes(damaged[:position] if cut else damaged)
    try:
        (x,) = read_archive(path, ["x"])
    except ValueError:
        return
    np.testing.assert_array_equal(x, np.arange(5))
