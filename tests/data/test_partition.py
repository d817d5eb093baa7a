"""A partition as a value: its invariants, its digest, and a file that is either right or refused."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.partition import Partition, digest, from_owners, indices, label_counts, load, save, sizes

SMALL = Partition(order=np.array([3, 0, 2, 1, 4]), offsets=np.array([0, 2, 2, 5]))


@st.composite
def owned(draw):
    """Clients, and the owner of each of up to 30 examples."""
    clients = draw(st.integers(1, 8))
    owners = draw(st.lists(st.integers(0, clients - 1), max_size=30))
    return clients, np.array(owners, np.int64)


def test_a_client_holds_its_stretch_of_the_order():
    assert [indices(SMALL, client).tolist() for client in range(3)] == [[3, 0], [], [2, 1, 4]]
    assert sizes(SMALL).tolist() == [2, 0, 3]
    assert label_counts(SMALL, np.array([0, 1, 1, 0, 2]), 4).tolist() == [[2, 0, 0, 0], [0] * 4, [0, 2, 1, 0]]


def test_a_partition_cannot_be_changed():
    for array in (SMALL.order, SMALL.offsets, indices(SMALL, 0)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@settings(deadline=None)
@given(owned(), st.randoms())
def test_from_owners_gives_every_client_its_own_in_the_order_given(clients_and_owners, random):
    clients, owners = clients_and_owners
    examples = np.array(random.sample(range(len(owners)), len(owners)), np.int64)
    partition = from_owners(examples, owners, clients)
    for client in range(clients):
        expected = [example for example, owner in zip(examples, owners, strict=True) if owner == client]
        assert indices(partition, client).tolist() == expected


@settings(deadline=None)
@given(owned(), st.data())
def test_label_counts_are_counted_one_by_one(clients_and_owners, data):
    clients, owners = clients_and_owners
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(owners), max_size=len(owners))), np.int64)
    counted = label_counts(from_owners(np.arange(len(owners)), owners, clients), labels, 4)
    expected = np.zeros((clients, 4), np.int64)
    for owner, label in zip(owners, labels, strict=True):
        expected[owner, label] += 1
    np.testing.assert_array_equal(counted, expected)


@pytest.mark.parametrize(
    ("order", "offsets", "message"),
    [
        (np.arange(3.0), [0, 3], r"order and offsets must be int64\[...\], got float64\[3\]"),
        (np.arange(4).reshape(2, 2), [0, 4], r"order and offsets must be int64\[...\], got int64\[2, 2\]"),
        (np.arange(3), [0], "offsets must run from 0 to the number of examples, 3"),
        (np.arange(3), [1, 3], "offsets must run from 0 to the number of examples, 3"),
        (np.arange(3), [0, 2], "offsets must run from 0 to the number of examples, 3"),
        (np.arange(3), [0, 2, 1, 3], "offsets must not fall"),
        (np.array([0, 1, 1]), [0, 3], "order must hold every example exactly once"),
        (np.array([0, 1, 3]), [0, 3], "order must hold every example exactly once"),
        (np.array([0, 1, -1]), [0, 3], "order must hold every example exactly once"),
    ],
)
def test_arrays_that_are_no_partition_are_refused(order, offsets, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Partition(order=order, offsets=np.array(offsets))


def test_the_digest_is_the_one_its_docstring_describes():
    packed = b"partition 5 3\n" + struct.pack("<5q", 3, 0, 2, 1, 4) + struct.pack("<4q", 0, 2, 2, 5)
    assert digest(SMALL) == hashlib.sha256(packed).hexdigest()
    assert digest(SMALL) == "a092e9320bb2b1b253f6ce4c88db403bada300a57efdf456f545b8249ab0143b"


@settings(deadline=None)
@given(owned(), owned())
def test_digests_are_equal_for_equal_partitions_only(one, other):
    partitions = [from_owners(np.arange(len(owners)), owners, clients) for clients, owners in (one, other)]
    same = one[0] == other[0] and one[1].tolist() == other[1].tolist()
    assert (digest(partitions[0]) == digest(partitions[1])) == same


@settings(deadline=None)
@given(clients_and_owners=owned())
def test_what_is_saved_is_loaded(clients_and_owners, tmp_path_factory):
    clients, owners = clients_and_owners
    partition = from_owners(np.arange(len(owners)), owners, clients)
    path = tmp_path_factory.mktemp("partition") / "new folder" / "partition.npz"
    save(partition, path)
    loaded = load(path)
    np.testing.assert_array_equal(loaded.order, partition.order)
    np.testing.assert_array_equal(loaded.offsets, partition.offsets)
    assert digest(loaded) == digest(partition)


def test_equal_partitions_give_equal_files(tmp_path):
    save(SMALL, tmp_path / "a.npz")
    save(Partition(order=SMALL.order.copy(), offsets=SMALL.offsets.copy()), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (
            {"order": SMALL.order[[1, 0, 2, 3, 4]], "offsets": SMALL.offsets, "digest": digest(SMALL)},
            "its content does not have the digest recorded in it",
        ),
        (
            {"order": SMALL.order, "offsets": np.array([0, 5]), "digest": digest(SMALL)},
            "its content does not have the digest recorded in it",
        ),
        ({"order": SMALL.order, "offsets": SMALL.offsets}, "lacks digest; it holds order, offsets"),
        (
            {"order": np.zeros(5, np.int64), "offsets": SMALL.offsets, "digest": ""},
            "order must hold every example exactly once",
        ),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(tmp_path, arrays, reason):
    path = tmp_path / "partition.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        load(path)
    assert str(refused.value) == f"{path}: not a partition saved by fedsim: {reason}"


def test_any_damage_to_a_saved_file_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "partition.npz"
    save(SMALL, path)
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            assert digest(load(path)) == digest(SMALL)
        except ValueError:
            refused += 1
    assert refused > len(content) / 2
