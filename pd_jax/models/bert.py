"""The encoder of BERT (Devlin et al. 2018): post-LayerNorm, learned positions, pooler.

Dropout is on when the caller passes a `dropout` stream, and off otherwise. Parameters and
LayerNorms are float32.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from pd_jax.models.attention import SelfAttention, dense, dropout_key, initializer
from pd_jax.models.dropout import dropout
from pd_jax.models.gelu import gelu
from pd_jax.models.sizes import BertConfig
from pd_jax.parallel.sharding import constrain_batch


class Encoded(NamedTuple):
    """What the encoder makes of a batch."""

    sequence: Float[Array, "batch positions hidden"]
    """The last layer's states: of every token, or of those at the positions asked for."""
    first_tokens: Float[Array, "batch *examples hidden"]
    """The last layer's state of each example's first token."""
    pooled: Any
    """tanh of a projection of `first_tokens`, in their shape; None where it was not asked for."""
    states: tuple[Float[Array, "batch seq hidden"], ...]
    """What each layer was given: the embeddings' output, and every layer's but for the last."""


def first_states(
    encoded: Encoded,
    layers: Sequence[int],
    starts: Int[Array, "batch examples"] | None = None,
) -> Float[Array, "batch *examples layers hidden"]:
    """Returns the state of each example's first token after each of `layers` (from 0), float32."""
    outputs = [
        *(first_tokens_of(states, starts) for states in encoded.states[1:]),
        encoded.first_tokens,
    ]
    return jnp.stack([outputs[layer] for layer in layers], axis=-2).astype(jnp.float32)


def first_tokens_of(
    states: Float[Array, "batch seq hidden"], starts: Int[Array, "batch examples"] | None
) -> Float[Array, "batch *examples hidden"]:
    """Returns the states of each example's first token."""
    return states[:, 0] if starts is None else gather_positions(states, starts)


def gather_positions(
    values: Shaped[Array, "batch seq inner"], positions: Int[Array, "batch positions"]
) -> Shaped[Array, "batch positions inner"]:
    """Returns each row's values at its positions."""
    return jnp.take_along_axis(values, positions[..., None], axis=1)


def no_positions(input_ids: Int[Array, "batch seq"]) -> Int[Array, "batch 0"]:
    """Returns an empty list of positions, for a model that needs the first tokens alone."""
    return jnp.zeros((input_ids.shape[0], 0), jnp.int32)


def norm(config: BertConfig, name: str = "norm") -> nn.LayerNorm:
    """Returns a LayerNorm computed in float32."""
    return nn.LayerNorm(epsilon=config.norm_epsilon, dtype=jnp.float32, name=name)


def mask_and_position_ids(
    input_mask: Int[Array, "batch seq"], starts: Int[Array, "batch examples"] | None
) -> tuple[Bool[Array, "batch #seq seq"], Int[Array, "#batch seq"]]:
    """Returns which keys each token may attend to, and every token's position in its example."""
    position_ids = jnp.arange(input_mask.shape[1])[None]
    if starts is None:
        return input_mask[:, None, :] > 0, position_ids
    own_starts = jnp.take_along_axis(starts, jnp.maximum(input_mask - 1, 0), axis=1)
    position_ids = jnp.where(input_mask > 0, position_ids - own_starts, 0)
    return input_mask[:, :, None] == input_mask[:, None, :], position_ids


def position_initializer(config: BertConfig) -> Callable[..., jax.Array]:
    """Returns how the position table begins: as all weights do, or as sinusoids of equal power.

    Of sinusoids (Vaswani et al. 2017, section 3.5) a shift is one linear map for all positions, so
    that queries and keys which find a word's neighbour do so at every position.
    """
    if config.position_init == "normal":
        return initializer(config)

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        del key
        count, hidden = shape
        scale = config.initializer_range * 2**0.5  # a sinusoid's deviation is 1 / sqrt(2)
        steps = 10_000.0 ** (-jnp.arange(0, hidden, 2) / hidden)
        angles = jnp.arange(count)[:, None] * steps
        waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return (scale * waves).reshape(count, -1)[:, :hidden].astype(dtype)

    return init


class Embeddings(nn.Module):
    """The sum of word, position and token-type embeddings, normalised."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "batch seq"],
        segment_ids: Int[Array, "batch seq"],
        position_ids: Int[Array, "#batch seq"],
    ) -> Float[Array, "batch seq hidden"]:
        config = self.config
        init = initializer(config)

        def table(name: str, size: int, init: Callable[..., jax.Array]) -> nn.Embed:
            return nn.Embed(size, config.hidden, embedding_init=init, name=name)

        word, position, token_type = (
            table("word", config.vocab_size, init),
            table("position", config.positions, position_initializer(config)),
            table("token_type", config.token_types, init),
        )
        summed = (
            word(input_ids)
            + position(position_ids)
            # Two rows: a product with a one-hot costs less than a gather, and its gradient needs no
            # scatter.
            + jax.nn.one_hot(segment_ids, config.token_types) @ token_type.embedding
        )
        states = norm(config)(summed).astype(config.dtype)
        return dropout(states, config.dropout, dropout_key(self))


class Layer(nn.Module):
    """One encoder layer: self-attention and a two-layer MLP, each added to its input and
    normalised. It renews `queries`, which attend to all `states`.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "batch queries hidden"],
        states: Float[Array, "batch seq hidden"],
        attention_mask: Bool[Array, "batch #queries seq"],
    ) -> Float[Array, "batch queries hidden"]:
        config = self.config
        attended = SelfAttention(config, name="attention")(queries, states, attention_mask)
        attended = dropout(attended, config.dropout, dropout_key(self))
        queries = norm(config, "attention_norm")(queries + attended).astype(config.dtype)
        inner = dense(config, config.intermediate, "mlp_in")(queries)
        inner = gelu(inner, kind=config.gelu)
        output = dense(config, config.hidden, "mlp_out")(inner)
        output = dropout(output, config.dropout, dropout_key(self))
        return norm(config, "mlp_norm")(queries + output).astype(config.dtype)


class Bert(nn.Module):
    """The encoder and its pooler.

    A row may hold several examples: `starts` says where each begins, and `input_mask` numbers every
    token's example from 1 (0: padding). Each is then encoded as if it were alone.

    `positions` are those whose last states are needed beside the first tokens'. The last layer
    renews no others: of a task model it costs a sixth, of masked language modelling a third.

    Without `pool` the pooler is neither read nor made.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "batch seq"],
        segment_ids: Int[Array, "batch seq"],
        input_mask: Int[Array, "batch seq"],
        starts: Int[Array, "batch examples"] | None = None,
        positions: Int[Array, "batch positions"] | None = None,
        *,
        pool: bool = True,
    ) -> Encoded:
        config = self.config
        attention_mask, position_ids = mask_and_position_ids(input_mask, starts)
        layer_class = nn.remat(Layer) if config.remat else Layer
        *layers, last = (
            layer_class(config, name=f"layer_{index}") for index in range(config.layers)
        )
        embedded = Embeddings(config, name="embeddings")(input_ids, segment_ids, position_ids)
        states = [constrain_batch(embedded)]
        for layer in layers:
            states.append(constrain_batch(layer(states[-1], states[-1], attention_mask)))
        if positions is None or positions.shape[1] >= input_ids.shape[1]:
            sequence = constrain_batch(last(states[-1], states[-1], attention_mask))
            first_tokens = first_tokens_of(sequence, starts)
            sequence = sequence if positions is None else gather_positions(sequence, positions)
        else:
            queries, attention_mask = _gather_queries(states[-1], attention_mask, starts, positions)
            renewed = constrain_batch(last(queries, states[-1], attention_mask))
            examples = renewed.shape[1] - positions.shape[1]
            first_tokens = renewed[:, 0] if starts is None else renewed[:, :examples]
            sequence = renewed[:, examples:]
        pooled = None
        if pool:
            pooled = jnp.tanh(dense(config, config.hidden, "pooler")(first_tokens))
        return Encoded(sequence, first_tokens, pooled, tuple(states))


def _gather_queries(
    states: Float[Array, "batch seq hidden"],
    attention_mask: Bool[Array, "batch #seq seq"],
    starts: Int[Array, "batch examples"] | None,
    positions: Int[Array, "batch positions"],
) -> tuple[Float[Array, "batch queries hidden"], Bool[Array, "batch #queries seq"]]:
    """Returns the states of each example's first token and then those at `positions`, and the rows
    of the attention mask that are theirs.
    """
    if starts is None and not positions.shape[1]:
        return states[:, :1], attention_mask  # a slice, whose gradient needs no scatter
    if starts is None:
        starts = jnp.zeros((len(positions), 1), positions.dtype)
    positions = jnp.concatenate([starts, positions], axis=1)
    if attention_mask.shape[1] > 1:
        attention_mask = gather_positions(attention_mask, positions)
    return gather_positions(states, positions), attention_mask
