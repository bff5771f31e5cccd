"""Arrays between host and mesh, the same on one process and on many."""

from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def one_behind(dispatched: Iterator[T]) -> Iterator[T]:
    """Yields each item after the next one was dispatched, so that devices and host overlap."""
    before: list[T] = []
    for item in dispatched:
        yield from before
        before = [item]
    yield from before


def place(tree: Any, shardings: Any) -> Any:
    """Returns host arrays with the given shardings; every process has the full tree on its host,
    except for leaves that have their sharding already.
    """

    def one(leaf: Any, at: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(at, leaf.ndim):
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, at, lambda index: host[index])

    return jax.tree.map(one, tree, shardings)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns host arrays, the same in every process, with a copy on every device of the mesh.

    A step given the host arrays themselves would copy them to the devices every time it runs.
    """
    return place(tree, jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), tree))


def whole(array: jax.Array) -> np.ndarray:
    """Returns a global array's value on every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def to_host(tree: Any) -> Any:
    """Returns a tree's values on every process; arrays split over processes are gathered first."""
    leaves = jax.tree.leaves(tree)
    if all(leaf.is_fully_replicated or leaf.is_fully_addressable for leaf in leaves):
        return jax.tree.map(np.asarray, tree)
    everywhere = NamedSharding(leaves[0].sharding.mesh, PartitionSpec())
    return jax.tree.map(np.asarray, jax.jit(lambda held: held, out_shardings=everywhere)(tree))
