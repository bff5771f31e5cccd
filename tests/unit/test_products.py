"""The fast forms give the usual values and gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.models.products import gelu, project


def test_a_projection_has_the_gradients_of_a_product():
    states, kernel, weight = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in enumerate(((3, 5, 16), (16, 24), (3, 5, 24)))
    )
    found = jax.jit(jax.grad(lambda s, k: jnp.sum(project(s, k) * weight), argnums=(0, 1)))(
        states, kernel
    )
    by_states = np.einsum("rso,io->rsi", weight, kernel)
    by_kernel = np.einsum("rsi,rso->io", states, weight)
    np.testing.assert_allclose(found[0], by_states, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], by_kernel, rtol=1e-5, atol=1e-5)


def test_the_exact_gelu_and_its_slope_are_those_of_the_normal_distribution():
    values = np.linspace(-8, 8, 2001, dtype=np.float32)
    phi = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in values.astype(float)])
    density = np.exp(-(values.astype(float) ** 2) / 2) / math.sqrt(2 * math.pi)
    found = gelu(jnp.asarray(values), kind="exact")
    slope = jax.vmap(jax.grad(lambda x: gelu(x, kind="exact")))(jnp.asarray(values))
    np.testing.assert_allclose(found, values * phi, rtol=0, atol=1e-6)
    np.testing.assert_allclose(slope, phi + values * density, rtol=0, atol=1e-6)
    assert float(gelu(jnp.float32(1.0), kind="tanh")) == float(jax.nn.gelu(jnp.float32(1.0)))
