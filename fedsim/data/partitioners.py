"""The ways to share examples out among clients, with the names and the meaning of flwr-datasets' partitioners."""

import numpy as np
from numpy.typing import NDArray

from fedsim.data.partition import Partition, from_owners, sizes

NAMES = ("iid", "dirichlet", "pathological", "shards", "quantity")
LARGEST_ALPHA = 1e6
DRAWS = 10

Owners = NDArray[np.int64]


def partition(
    name: str,
    labels: NDArray[np.int64],
    clients: int,
    generator: np.random.Generator,
    *,
    alpha: float,
    classes_per_client: int,
    min_examples: int,
) -> Partition:
    """Shares the examples with these ``labels`` (``int64[N]``) out among ``clients``, each example exactly once.

    ``iid``: at random, as many to each client (give or take one).
    ``dirichlet``: each class is shared out in proportions drawn from a symmetric Dirichlet(``alpha``) over the
    clients (Yurochkin et al. 2019); the smaller alpha, the fewer classes and clients dominate. Given the
    proportions ``p``, a client gets ``n * p`` examples of a class of ``n`` in expectation, and less than one off.
    ``pathological``: each client holds exactly ``classes_per_client`` classes, chosen at random; a class is cut
    evenly among its holders. So that none is left out, a class nobody chose takes the place of one that others hold.
    ``shards``: examples are sorted by label, cut evenly into ``clients * classes_per_client`` shards, and each client
    is dealt ``classes_per_client`` of them (McMahan et al. 2017, section 3). A shard no larger than the smallest
    class holds at most two classes.
    ``quantity``: labels are as in ``iid``, but sizes are shares drawn from Dirichlet(``alpha``) (Li et al. 2022).

    Every client gets at least ``min_examples``, which may be 0. A Dirichlet draw that falls short is drawn again, up
    to ten times in all; then, where flwr-datasets gives up, the short clients are topped up with examples taken at
    random from those that others hold above ``min_examples``. Within a client the order is random. Settings a scheme
    has no use for are not looked at.

    Raises ``ValueError`` for what cannot be done, in one line that names the configuration key.

    >>> shared = partition("iid", np.zeros(5, np.int64), 2, np.random.default_rng(0),
    ...                    alpha=1.0, classes_per_client=1, min_examples=1)
    >>> sizes(shared).tolist()
    [3, 2]
    """
    _check(name, len(labels), clients, alpha, min_examples)
    shuffled = generator.permutation(len(labels))
    classes = np.unique(labels[shuffled], return_inverse=True)[1]
    match name:
        case "iid":
            owners = _even(len(classes), clients)
        case "dirichlet":
            owners = _dirichlet(classes, clients, alpha, min_examples, generator)
        case "quantity":
            owners = _dirichlet(np.zeros_like(classes), clients, alpha, min_examples, generator)
        case "pathological":
            owners = _pathological(classes, clients, classes_per_client, generator)
        case _:
            owners = _shards(classes, clients, classes_per_client, generator)
    result = from_owners(shuffled, owners, clients)
    smallest = int(sizes(result).min())
    if smallest < min_examples:
        raise ValueError(f"data.min_examples = {min_examples}: {name} leaves a client {smallest}; at most {smallest}")
    return result


def mirror(
    label_counts: NDArray[np.int64], test_labels: NDArray[np.int64], generator: np.random.Generator
) -> Partition:
    """Shares test examples out so that each client is tested on the classes it trains on.

    Each class of ``test_labels`` (``int64[M]``) goes to clients in proportion to their training examples of it,
    column by column of ``label_counts`` (``int64[C, K]``): whole parts first, then one each by largest remainder,
    ties at random. A class no client trains on goes by the clients' sizes. Every test example is used exactly once;
    a client whose parts all round to nothing gets none, as some must when there are more clients than examples.

    Raises ``ValueError`` if a label has no column or no client has an example.
    """
    if len(test_labels) and not 0 <= test_labels.min() <= test_labels.max() < label_counts.shape[1]:
        raise ValueError(f"test labels must be 0 to {label_counts.shape[1] - 1}, the columns of label_counts")
    if not label_counts.any():
        raise ValueError("label_counts must hold at least one example")
    clients = len(label_counts)
    shuffled = generator.permutation(len(test_labels))
    owners = np.empty(len(test_labels), np.int64)
    for label, members in enumerate(_members(test_labels[shuffled], label_counts.shape[1])):
        held = label_counts[:, label] if label_counts[:, label].any() else label_counts.sum(axis=1)
        parts = _largest_remainder(len(members), held, generator)
        owners[members] = np.repeat(np.arange(clients), parts)
    return from_owners(shuffled, owners, clients)


def _check(name: str, examples: int, clients: int, alpha: float, min_examples: int) -> None:
    if name not in NAMES:
        raise ValueError(f"data.partition = {name}: allowed are {', '.join(NAMES)}")
    if examples == 0:
        raise ValueError("data.source: there are no examples to share out")
    if clients < 1:
        raise ValueError(f"federation.clients = {clients}: at least 1")
    if name in ("dirichlet", "quantity") and not 0 < alpha <= LARGEST_ALPHA:
        raise ValueError(f"data.alpha = {alpha}: allowed are numbers above 0, up to {LARGEST_ALPHA:,.0f}")
    if min_examples < 0:
        raise ValueError(f"data.min_examples = {min_examples}: at least 0")
    if clients * min_examples > examples:
        raise ValueError(
            f"data.min_examples = {min_examples}: {examples:,} examples cannot give {clients:,} clients "
            f"{min_examples} each; at most {examples // clients}, or data.partition = sampled, where phones share them"
        )


def _even(count: int, parts: int) -> Owners:
    """Owners of ``count`` things in ``parts`` consecutive runs whose lengths differ by one at most."""
    return np.arange(count) * parts // count


def _members(classes: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Where each of the classes ``0 .. count - 1`` occurs, in rising order."""
    ends = np.cumsum(np.bincount(classes, minlength=count))
    return np.split(np.argsort(classes, kind="stable"), ends[:-1])


def _dirichlet(
    classes: NDArray[np.int64], clients: int, alpha: float, min_examples: int, generator: np.random.Generator
) -> Owners:
    members = _members(classes, int(classes.max()) + 1)
    owners = np.empty_like(classes)
    for _ in range(DRAWS):
        for of_class in members:
            proportions = generator.dirichlet(np.full(clients, alpha))
            owners[of_class] = _systematic(proportions, len(of_class), generator)
        if np.bincount(owners, minlength=clients).min() >= min_examples:
            return owners
    return _topped_up(owners, clients, min_examples, generator)


def _systematic(proportions: NDArray[np.float64], count: int, generator: np.random.Generator) -> Owners:
    """Owners of ``count`` things, ``count * proportions`` each in expectation and less than one off.

    Systematic sampling (Madow and Madow 1944): ``count`` evenly spaced points with one random start fall into the
    intervals that the proportions cut the unit interval into.
    """
    points = (np.arange(count) + generator.random()) / count
    return np.searchsorted(np.cumsum(proportions), points, side="right").clip(max=len(proportions) - 1)


def _topped_up(owners: Owners, clients: int, least: int, generator: np.random.Generator) -> Owners:
    """The same owners, but for examples that move, at random, from clients above ``least`` to those below."""
    held = np.bincount(owners, minlength=clients)
    by_owner = np.argsort(owners, kind="stable")
    rank = np.arange(len(owners)) - np.repeat(np.cumsum(held) - held, held)
    short = np.maximum(least - held, 0)
    moved = generator.permutation(by_owner[rank >= least])[: short.sum()]
    result = owners.copy()
    result[moved] = np.repeat(np.arange(clients), short)
    return result


def _pathological(classes: NDArray[np.int64], clients: int, each: int, generator: np.random.Generator) -> Owners:
    count = int(classes.max()) + 1
    least = -(-count // clients)
    if not least <= each <= count:
        raise ValueError(
            f"data.classes_per_client = {each}: {clients:,} clients share {count} classes; "
            f"allowed are {least} to {count}"
        )
    holds = _chosen_classes(clients, count, each, generator)
    owners = np.empty_like(classes)
    for label, members in enumerate(_members(classes, count)):
        holders = np.flatnonzero(holds[:, label])
        if len(holders) > len(members):
            raise ValueError(
                f"data.classes_per_client = {each}: a class of {len(members):,} examples has {len(holders):,} clients; "
                "lower it or federation.clients"
            )
        owners[members] = holders[_even(len(members), len(holders))]
    return owners


def _chosen_classes(clients: int, count: int, each: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """``bool[clients, count]``: a random choice of ``each`` classes a row, with every class chosen by somebody."""
    choice = generator.random((clients, count)).argsort(axis=1)[:, :each]
    holds = np.zeros((clients, count), np.bool_)
    np.put_along_axis(holds, choice, True, axis=1)
    for label in np.flatnonzero(~holds.any(axis=0)):
        replaceable = np.argwhere(holds & (holds.sum(axis=0) > 1))
        client, given_up = replaceable[generator.integers(len(replaceable))]
        holds[client, [given_up, label]] = False, True
    return holds


def _shards(classes: NDArray[np.int64], clients: int, each: int, generator: np.random.Generator) -> Owners:
    shards = clients * each
    if not clients <= shards <= len(classes):
        raise ValueError(
            f"data.classes_per_client = {each}: {len(classes):,} examples make at least 1 and at most "
            f"{len(classes) // clients} shards for each of {clients:,} clients"
        )
    holder = generator.permutation(shards) // each
    owners = np.empty_like(classes)
    owners[np.argsort(classes, kind="stable")] = holder[_even(len(classes), shards)]
    return owners


def _largest_remainder(count: int, weights: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """``count`` in whole parts proportional to ``weights`` (Hamilton's method), in exact integers."""
    parts, remainders = np.divmod(count * weights, weights.sum())
    by_remainder = np.lexsort((generator.random(len(weights)), -remainders))
    parts[by_remainder[: count - parts.sum()]] += 1
    return parts
