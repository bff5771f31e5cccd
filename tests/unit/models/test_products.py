"""The fast forms give the usual values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.models.products import add_bias, project


def draw(*shape, dtype=jnp.float32):
    generator = np.random.default_rng(len(shape))
    return jnp.asarray(generator.normal(size=shape), dtype)


@pytest.mark.parametrize("rows", [(7,), (3, 5), (2, 3, 4)])
def test_a_projection_and_its_gradients_are_a_product_s(rows):
    states, kernel, weight = draw(*rows, 6), draw(6, 8), draw(*rows, 8)
    found = jax.value_and_grad(lambda *args: (project(*args) * weight).sum(), argnums=(0, 1))
    loss, (by_states, by_kernel) = found(states, kernel)
    wide = [np.asarray(array, np.float64) for array in (states, kernel, weight)]
    np.testing.assert_allclose(loss, ((wide[0] @ wide[1]) * wide[2]).sum(), rtol=1e-5)
    np.testing.assert_allclose(by_states, wide[2] @ wide[1].T, rtol=1e-5, atol=1e-5)
    flat = [array.reshape(-1, array.shape[-1]) for array in (wide[0], wide[2])]
    np.testing.assert_allclose(by_kernel, flat[0].T @ flat[1], rtol=1e-5, atol=1e-5)


def test_gradients_of_a_projection_have_its_operands_types():
    states, kernel = draw(3, 5, 6, dtype=jnp.bfloat16), draw(6, 8, dtype=jnp.bfloat16)

    def natural(states, kernel):
        return (states @ kernel).astype(jnp.float32).sum()

    def ours(states, kernel):
        return project(states, kernel).astype(jnp.float32).sum()

    for found, expected in zip(
        jax.grad(ours, argnums=(0, 1))(states, kernel),
        jax.grad(natural, argnums=(0, 1))(states, kernel),
        strict=True,
    ):
        assert found.dtype == expected.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(found, np.float32), np.asarray(expected, np.float32), rtol=2**-7
        )


def test_a_bias_and_its_gradient_are_a_sum_s():
    values, bias, weight = draw(7, 6), draw(6), draw(7, 6)
    loss = lambda *args: (add_bias(*args) * weight).sum()  # noqa: E731
    np.testing.assert_array_equal(add_bias(values, bias), values + bias)
    by_values, by_bias = jax.grad(loss, argnums=(0, 1))(values, bias)
    np.testing.assert_array_equal(by_values, weight)
    np.testing.assert_allclose(by_bias, np.asarray(weight, np.float64).sum(0), rtol=1e-5)
