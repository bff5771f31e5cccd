"""A digest of a tree of arrays, computed where the arrays are.

Every element's bits and its position in the global array go through an integer hash, and the hashes
are added modulo 2^32 (twice, with two salts). Sums do not depend on how an array is laid out, so
the digest is the same on one device and on a pod, and costs one pass over memory and no transfer.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from pd_jax.parallel.position_hash import avalanche, flat_position
from pd_jax.parallel.sharding import parameter_name

_SALTS = (0x9E3779B9, 0x85EBCA6B)


@jax.jit
def leaf_digest(leaf: jax.Array) -> UInt32[Array, "2"]:
    """Returns two 32-bit sums over an array's bits and positions."""
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
    position = flat_position(leaf.shape)
    sums = [
        jnp.sum(avalanche(bits ^ avalanche(position + jnp.uint32(salt))), dtype=jnp.uint32)
        for salt in _SALTS
    ]
    return jnp.stack(sums)


def leaf_digests(tree: Any) -> dict[str, str]:
    """Returns path -> 16 hexadecimal digits, for every array of a tree. Waits for the arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # A program for each shape, not one for the tree: a deep model has few shapes and many arrays.
    # One after the other: of many programs with collectives that nothing orders, the devices of a
    # busy CPU may begin different ones and wait for each other until XLA aborts the process.
    found = [jax.device_get(leaf_digest(leaf)) for _, leaf in leaves]
    return {
        parameter_name(path): f"{int(first):08x}{int(second):08x}"
        for (path, _), (first, second) in zip(leaves, found, strict=True)
    }
