"""The fast form gives the usual values and gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.models.gelu import gelu


@pytest.mark.parametrize("kind", ["exact", "tanh"])
def test_in_bfloat16_only_the_result_is_rounded(kind):
    values = jnp.linspace(-6, 6, 1201).astype(jnp.bfloat16)
    wide = np.asarray(values, np.float64)
    phi = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in wide])
    if kind == "tanh":
        phi = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    found = gelu(values, kind=kind)
    assert found.dtype == jnp.bfloat16
    # Half of the last of eight bits, and what float32's own 1 + erf(x) loses.
    np.testing.assert_allclose(np.asarray(found, np.float64), wide * phi, rtol=2**-8, atol=1e-6)


def test_the_exact_gelu_and_its_slope_are_those_of_the_normal_distribution():
    values = np.linspace(-8, 8, 2001, dtype=np.float32)
    phi = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in values.astype(float)])
    density = np.exp(-(values.astype(float) ** 2) / 2) / math.sqrt(2 * math.pi)
    found = gelu(jnp.asarray(values), kind="exact")
    slope = jax.vmap(jax.grad(lambda x: gelu(x, kind="exact")))(jnp.asarray(values))
    np.testing.assert_allclose(found, values * phi, rtol=0, atol=1e-6)
    np.testing.assert_allclose(slope, phi + values * density, rtol=0, atol=1e-6)
    assert float(gelu(jnp.float32(1.0), kind="tanh")) == float(jax.nn.gelu(jnp.float32(1.0)))
