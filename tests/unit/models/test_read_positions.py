"""A last layer that renews only the positions asked for gives what the whole layer does."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.models.bert import Bert, first_states, first_tokens_of, gather_positions, no_positions
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.sizes import BertConfig
from tests import tiny

CONFIG = BertConfig(50, layers=2, hidden=16, heads=4, intermediate=32, positions=12)
MASKS = {
    "padded": ([[1] * 12, [1] * 7 + [0] * 5], None),
    "packed": ([[1] * 4 + [2] * 5 + [3] * 3, [1] * 9 + [0] * 3], [[0, 4, 9], [0, 0, 0]]),
}
POSITIONS = jnp.array([[1, 5, 10, 0], [8, 2, 2, 0]])


@pytest.fixture(params=MASKS)
def tokens(request: pytest.FixtureRequest) -> tuple:
    mask, starts = MASKS[request.param]
    ids = np.random.default_rng(0).integers(1, 50, (2, 12))
    segments = (np.arange(12) > 5) * np.ones_like(ids)
    return ids, segments, np.array(mask), None if starts is None else jnp.array(starts)


@pytest.fixture(scope="module")
def params() -> dict:
    ids = jnp.ones((1, 12), jnp.int32)
    # Larger weights than a fresh model's, so that attention is not the same everywhere.
    made = tiny.weights(Bert(CONFIG).init, ids, ids, ids, seed=1)["params"]
    return jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim > 1 else leaf, made)


@pytest.mark.parametrize(
    "positions", [POSITIONS, no_positions(POSITIONS)], ids=["places", "first tokens alone"]
)
def test_states_and_gradients_are_those_of_the_whole_layer(
    tokens: tuple, params: dict, positions: jax.Array
) -> None:
    starts = tokens[-1]

    def partly(params: dict) -> tuple:
        found = Bert(CONFIG).apply({"params": params}, *tokens, positions=positions)
        return found.sequence, found.first_tokens, found.pooled, first_states(found, (0, 1), starts)

    def wholly(params: dict) -> tuple:
        found = Bert(CONFIG).apply({"params": params}, *tokens)
        last = found.sequence
        layers = jnp.stack(
            [first_tokens_of(found.states[1], starts), first_tokens_of(last, starts)], axis=-2
        )
        return (
            gather_positions(last, positions),
            first_tokens_of(last, starts),
            found.pooled,
            layers,
        )

    def mixed(outputs: tuple) -> jax.Array:
        return sum((jnp.sum(jnp.sin(3.0 * values)) for values in outputs), jnp.zeros(()))

    def with_gradient(function: Callable[[dict], tuple]) -> tuple:
        def loss(params: dict) -> tuple:
            outputs = function(params)
            return mixed(outputs), outputs

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    (one, outputs), (other, others) = with_gradient(partly), with_gradient(wholly)
    for part, whole in zip(outputs, others, strict=True):
        np.testing.assert_allclose(part, whole, rtol=0, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), one, other)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(other["layer_1"]["mlp_in"]))


def test_places_as_many_as_tokens_are_read_of_the_whole_layer(tokens: tuple, params: dict) -> None:
    positions = jnp.tile(POSITIONS, 3)
    apply = jax.jit(Bert(CONFIG).apply)
    partly, wholly = (
        apply({"params": params}, *tokens, positions=places) for places in (positions, None)
    )
    np.testing.assert_array_equal(partly.sequence, gather_positions(wholly.sequence, positions))
    np.testing.assert_array_equal(partly.pooled, wholly.pooled)


def test_layers_that_are_computed_again_change_nothing(tokens: tuple, params: dict) -> None:
    def loss(config: BertConfig, params: dict) -> jax.Array:
        pooled = Bert(config).apply({"params": params}, *tokens).pooled
        return jnp.sum(jnp.sin(3.0 * pooled))

    plain, again = (dataclasses.replace(CONFIG, remat=remat) for remat in (False, True))
    found = [
        jax.jit(jax.value_and_grad(functools.partial(loss, config)))(params)
        for config in (plain, again)
    ]
    text = jax.jit(jax.grad(functools.partial(loss, again))).lower(params).as_text()
    assert "optimization_barrier" in text, "nothing is computed again"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), *found)


def test_both_heads_read_no_more_than_they_need(tokens: tuple) -> None:
    """The last layer's MLP, whose width no other array has, sees the places and nothing else."""
    ids, segments, mask, starts = tokens
    task, words = TaskModel(CONFIG, 2), PretrainingModel(CONFIG)
    starts_of = () if starts is None else (starts,)
    examples = 1 if starts is None else 3

    def mlp_rows(model: TaskModel | PretrainingModel, *inputs: jax.Array) -> list[int]:
        shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        text = jax.jit(model.apply).lower(shapes, *inputs).as_text()
        return [places for places in (12, examples, examples + 4) if f"2x{places}x32x" in text]

    assert mlp_rows(task, ids, segments, mask, *starts_of) == [12, examples]
    assert mlp_rows(words, ids, segments, mask, POSITIONS, *starts_of) == [12, examples + 4]
