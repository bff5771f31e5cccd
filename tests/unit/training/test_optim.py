"""The optimiser at its corners, against AdamW written out in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.training.optim import AdamW, decays, first_moments, make_schedule


def test_schedule_at_its_corners():
    schedule = make_schedule(config_lib.Optimizer(learning_rate=1.0, warmup=0.1), 100)
    assert schedule(0) == pytest.approx(0.1)  # the first of ten warm-up steps is not wasted
    assert schedule(9) == pytest.approx(1.0)
    assert schedule(10) == pytest.approx(1.0)
    assert schedule(55) == pytest.approx(0.5)
    assert schedule(99) == pytest.approx(1 / 90)  # nor is the last of the 100 updates
    assert schedule(100) == 0.0
    constant = make_schedule(
        config_lib.Optimizer(learning_rate=2.0, warmup=0.5, schedule="constant"), 10
    )
    assert [float(constant(step)) for step in (0, 4, 9)] == pytest.approx([0.4, 2.0, 2.0])
    rising = make_schedule(config_lib.Optimizer(learning_rate=1.0, warmup=1.0), 10)
    assert [float(rising(step)) for step in range(10)] == pytest.approx(
        [share / 10 for share in range(1, 11)]
    )


@pytest.mark.parametrize("falls", ["linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_the_only_update_of_a_run_has_the_whole_rate(warmup, falls):
    optimizer = config_lib.Optimizer(learning_rate=0.5, warmup=warmup, schedule=falls)
    assert make_schedule(optimizer, 1)(0) == 0.5


def numpy_adamw(params, grads, *, steps, rate, correct):
    """AdamW as in google-research/bert's optimization.py, with and without bias correction."""
    beta1, beta2, epsilon, decay = 0.9, 0.999, 1e-6, 0.01
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for step in range(steps):
        norm = np.sqrt(sum(np.sum(gradient**2) for gradient in grads.values()))
        for name in params:
            gradient = grads[name] / max(1.0, norm)
            first[name] = beta1 * first[name] + (1 - beta1) * gradient
            second[name] = beta2 * second[name] + (1 - beta2) * gradient**2
            up = first[name] / ((1 - beta1 ** (step + 1)) if correct else 1)
            down = second[name] / ((1 - beta2 ** (step + 1)) if correct else 1)
            update = up / (np.sqrt(down) + epsilon)
            if name == "kernel":
                update = update + decay * params[name]
            params = {**params, name: params[name] - rate[step] * update}
    return params


@pytest.mark.parametrize("correct", [True, False])
def test_three_steps_equal_adamw_written_out(correct):
    optimizer = config_lib.Optimizer(learning_rate=0.1, warmup=0.0, bias_correction=correct)
    adamw, schedule = AdamW(optimizer), make_schedule(optimizer, 4)
    start = {"kernel": np.array([[1.0, -2.0]]), "bias": np.array([0.5, 0.5])}
    grads = {"kernel": np.array([[3.0, 0.2]]), "bias": np.array([-1.0, 0.0])}
    params = jax.tree.map(jnp.asarray, start)
    moments = first_moments(params)
    for step in range(3):
        gradients = jax.tree.map(jnp.asarray, grads)
        params, moments = adamw.update(
            gradients, moments, params, rate=schedule(step), norm=optax.tree.norm(gradients)
        )
    rates = [0.1 * min(1.0, (4 - step) / 3) for step in range(3)]
    expected = numpy_adamw(start, grads, steps=3, rate=rates, correct=correct)
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, rtol=2e-5)


def some_tree(seed):
    generator = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(generator.normal(size=(5, 3)), jnp.float32),
        "bias": jnp.asarray(generator.normal(size=3), jnp.float32),
    }


@pytest.mark.parametrize("clip", [None, 0.5])
def test_one_pass_equals_the_chain_of_optax(clip):
    settings = config_lib.Optimizer(learning_rate=0.02, clip=clip, weight_decay=0.1)
    adamw, schedule = AdamW(settings), make_schedule(settings, 12)
    chain = optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.adamw(schedule, 0.9, 0.999, 1e-6, weight_decay=0.1, mask=decays),
    )
    params = expected = some_tree(0)
    moments, state = first_moments(params), chain.init(expected)
    for step in range(12):
        gradients = some_tree(step + 1)
        before = params
        rate, norm = schedule(step), optax.tree.norm(gradients)
        params, moments = adamw.update(gradients, moments, params, rate=rate, norm=norm)
        updates, state = chain.update(gradients, state, expected)
        expected = optax.apply_updates(expected, updates)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), params, expected)
        changed = jax.tree.map(jnp.subtract, params, before)
        newest = adamw.last_update(moments, params, rate=rate)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), newest, changed)


@pytest.mark.parametrize("already", [0, 3])
def test_an_unhealthy_step_changes_no_bit_of_the_optimiser_or_the_parameters(already):
    adamw, rate = AdamW(config_lib.Optimizer(learning_rate=0.1)), jnp.float32(0.1)
    params = some_tree(0)
    moments, norm = first_moments(params), jnp.ones(())
    for step in range(already):
        params, moments = adamw.update(some_tree(step + 1), moments, params, rate=rate, norm=norm)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    after = adamw.update(
        broken, moments, params, rate=rate, norm=norm * jnp.nan, healthy=jnp.asarray(False)
    )
    jax.tree.map(np.testing.assert_array_equal, after, (params, moments))


def test_decay_covers_every_parameter_and_spares_biases_and_norms():
    tree = {
        "bert": {"norm": {"scale": 0, "bias": 0}, "word": {"embedding": 0}},
        "classifier": {"kernel": 0, "bias": 0},
    }
    assert decays(tree) == {
        "bert": {"norm": {"scale": False, "bias": False}, "word": {"embedding": True}},
        "classifier": {"kernel": True, "bias": False},
    }
    with pytest.raises(ConfigError, match="covers parameter adapter/weights"):
        decays({"adapter": {"weights": 0}})
