"""Integer hashes of an element's position in the global array: equal on any mesh."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


def avalanche(value: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns a bijection of 32-bit words with full avalanche (the `lowbias32` constants, bias 0.17
    bits).
    """
    value = (value ^ (value >> 16)) * jnp.uint32(0x7FEB352D)
    value = (value ^ (value >> 15)) * jnp.uint32(0x846CA68B)
    return value ^ (value >> 16)


def flat_position(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Returns each element's row-major position in the global array, modulo 2^32."""
    position = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return position
