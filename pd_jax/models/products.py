"""A projection and a bias whose gradients compile to fast code; the values are the usual ones.

Measured on two Xeon cores. What JAX derives for a kernel's gradient is a product over two
contracted dimensions whose result is transposed, for which XLA's CPU compiler copies operands and
takes a slow path; of flat operands it makes one plain product (a distillation step of Mini, 128
rows of 32 tokens: 0.83 of the time). And it adds up 640 rows of 30,522 numbers 25 times slower than
it multiplies them by ones (a step of masked language modelling: 0.95 of the time).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def project(
    states: Float[Array, "*rows inner"], kernel: Float[Array, "inner outer"]
) -> Float[Array, "*rows outer"]:
    """Returns `states @ kernel`."""
    return states @ kernel


def _forward(states: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return states @ kernel, (states, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    states, kernel = saved
    flat = (array.reshape(-1, array.shape[-1]) for array in (states, gradient))
    return gradient @ kernel.T, jnp.einsum("ri,ro->io", *flat)


project.defvjp(_forward, _backward)


def add_bias(
    values: Float[Array, "rows features"], bias: Float[Array, " features"]
) -> Float[Array, "rows features"]:
    """Returns `values + bias`."""
    ones = jnp.ones(values.shape[0], values.dtype)
    # The gradient is a sum, not to be rounded to the operands of a TPU's fast products.
    return values + jnp.einsum("r,f->rf", ones, bias, precision=jax.lax.Precision.HIGHEST)
