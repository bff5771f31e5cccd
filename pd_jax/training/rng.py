"""Random streams: a key is a function of (seed, name, step), never of history."""

import zlib

import jax


def root_key(seed: int) -> jax.Array:
    """Returns the one key that a stage's seed stands for."""
    return jax.random.key(seed)


def stream(root: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """Returns the key of a named use at a step. Names enter by CRC-32, which is the same in every
    process.
    """
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)
