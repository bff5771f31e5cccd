"""Dropout: what share stays, how it is scaled, and on what alone the mask depends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.models.dropout import dropout, keep_mask

KEY = jax.random.key(3)
SHAPE = (200, 500)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_stays_is_one_minus_the_rate_and_the_mean_is_kept(rate: float) -> None:
    found = np.asarray(dropout(jnp.ones(SHAPE), rate, KEY))
    assert set(np.unique(found)) == {0.0, np.float32(1 / (1 - rate))}
    deviation = np.sqrt(rate * (1 - rate) / found.size)
    assert abs((found > 0).mean() - (1 - rate)) < 4 * deviation
    # Neither a row's nor a column's share stands out.
    for axis in (0, 1):
        shares = (found > 0).mean(axis)
        expected = np.sqrt(rate * (1 - rate) / SHAPE[axis])
        assert 0.85 * expected < shares.std() < 1.15 * expected


def test_without_a_key_or_a_rate_nothing_changes() -> None:
    values = jnp.arange(6.0)
    np.testing.assert_array_equal(dropout(values, 0.5, None), values)
    np.testing.assert_array_equal(dropout(values, 0.0, KEY), values)


def test_keys_give_masks_of_their_own_and_a_key_always_the_same() -> None:
    one, other = (keep_mask(key, SHAPE, 0.5) for key in jax.random.split(KEY))
    assert 0.49 < np.mean(np.asarray(one) == np.asarray(other)) < 0.51
    np.testing.assert_array_equal(one, jax.jit(keep_mask, static_argnums=(1, 2))(
        jax.random.split(KEY)[0], SHAPE, 0.5
    ))  # fmt: skip


def test_bfloat16_stays_bfloat16() -> None:
    assert dropout(jnp.ones(4, jnp.bfloat16), 0.5, KEY).dtype == jnp.bfloat16
