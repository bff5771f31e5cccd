"""The encoder of BERT (Devlin et al. 2018): post-LayerNorm, learned positions, pooler.

Dropout is on when the caller passes a `dropout` stream, and off otherwise. Parameters and
LayerNorms are float32.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

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

    sequence: Float[Array, "batch places hidden"]
    """The last layer's states: of every token, or of those that were to be read."""
    firsts: Float[Array, "batch *examples hidden"]
    """The last layer's state of each example's first token."""
    pooled: Float[Array, "batch *examples hidden"]
    """tanh of a projection of `firsts`."""
    states: tuple[Float[Array, "batch seq hidden"], ...]
    """What each layer was given: the embeddings' output, and every layer's but for the last."""


def first_states(
    encoded: Encoded,
    layers: Sequence[int],
    starts: Int[Array, "batch examples"] | None = None,
) -> Float[Array, "batch *examples layers hidden"]:
    """Returns the state of each example's first token after each of `layers` (from 0), float32."""
    outputs = [*(firsts_of(states, starts) for states in encoded.states[1:]), encoded.firsts]
    return jnp.stack([outputs[layer] for layer in layers], axis=-2).astype(jnp.float32)


def firsts_of(
    states: Float[Array, "batch seq hidden"], starts: Int[Array, "batch examples"] | None
) -> Float[Array, "batch *examples hidden"]:
    """Returns the states of each example's first token."""
    return states[:, 0] if starts is None else take(states, starts)


def take(
    values: Shaped[Array, "batch seq inner"], places: Int[Array, "batch places"]
) -> Shaped[Array, "batch places inner"]:
    """Returns each row's values at its places."""
    return jnp.take_along_axis(values, places[..., None], axis=1)


def nowhere(input_ids: Int[Array, "batch seq"]) -> Int[Array, "batch 0"]:
    """Returns no places to read, for a model that needs the first tokens alone."""
    return jnp.zeros((input_ids.shape[0], 0), jnp.int32)


def norm(config: BertConfig, name: str = "norm") -> nn.LayerNorm:
    """Returns a LayerNorm computed in float32."""
    return nn.LayerNorm(epsilon=config.norm_epsilon, dtype=jnp.float32, name=name)


def bounds(
    input_mask: Int[Array, "batch seq"], starts: Int[Array, "batch examples"] | None
) -> tuple[Bool[Array, "batch #seq seq"], Int[Array, "#batch seq"]]:
    """Returns which keys each token may attend to, and every token's position in its example."""
    places = jnp.arange(input_mask.shape[1])[None]
    if starts is None:
        return input_mask[:, None, :] > 0, places
    begun = jnp.take_along_axis(starts, jnp.maximum(input_mask - 1, 0), axis=1)
    positions = jnp.where(input_mask > 0, places - begun, 0)
    return input_mask[:, :, None] == input_mask[:, None, :], positions


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
        positions: Int[Array, "#batch seq"],
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
            + position(positions)
            # Two rows: a product with a one-hot costs less than a gather, and its gradient needs no
            # scatter.
            + jax.nn.one_hot(segment_ids, config.token_types) @ token_type.embedding
        )
        states = norm(config)(summed).astype(config.dtype)
        return dropout(states, config.dropout, dropout_key(self))


class Layer(nn.Module):
    """One encoder layer: self-attention and a two-layer MLP, each added to its input and
    normalised. It renews the states `asking`, which look at all `states`.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        asking: Float[Array, "batch places hidden"],
        states: Float[Array, "batch seq hidden"],
        allowed: Bool[Array, "batch #places seq"],
    ) -> Float[Array, "batch places hidden"]:
        config = self.config
        attended = SelfAttention(config, name="attention")(asking, states, allowed)
        attended = dropout(attended, config.dropout, dropout_key(self))
        asking = norm(config, "attention_norm")(asking + attended).astype(config.dtype)
        grown = dense(config, config.intermediate, "mlp_in")(asking)
        grown = gelu(grown, kind=config.gelu)
        shrunk = dense(config, config.hidden, "mlp_out")(grown)
        shrunk = dropout(shrunk, config.dropout, dropout_key(self))
        return norm(config, "mlp_norm")(asking + shrunk).astype(config.dtype)


class Bert(nn.Module):
    """The encoder and its pooler.

    A row may hold several examples: `starts` says where each begins, and `input_mask` numbers every
    token's example from 1 (0: padding). Each is then encoded as if it were alone.

    `read` names the places whose last states are needed beside the first tokens'. The last layer
    renews no others: of a task model it costs a sixth, of masked language modelling a third.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "batch seq"],
        segment_ids: Int[Array, "batch seq"],
        input_mask: Int[Array, "batch seq"],
        starts: Int[Array, "batch examples"] | None = None,
        read: Int[Array, "batch places"] | None = None,
    ) -> Encoded:
        config = self.config
        allowed, positions = bounds(input_mask, starts)
        kind = nn.remat(Layer) if config.remat else Layer
        *layers, last = (kind(config, name=f"layer_{index}") for index in range(config.layers))
        embedded = Embeddings(config, name="embeddings")(input_ids, segment_ids, positions)
        states = [constrain_batch(embedded)]
        for layer in layers:
            states.append(constrain_batch(layer(states[-1], states[-1], allowed)))
        if read is None or read.shape[1] >= input_ids.shape[1]:
            sequence = constrain_batch(last(states[-1], states[-1], allowed))
            firsts = firsts_of(sequence, starts)
            sequence = sequence if read is None else take(sequence, read)
        else:
            asking, allowed = _at_places(states[-1], allowed, starts, read)
            renewed = constrain_batch(last(asking, states[-1], allowed))
            examples = renewed.shape[1] - read.shape[1]
            firsts = renewed[:, 0] if starts is None else renewed[:, :examples]
            sequence = renewed[:, examples:]
        pooled = jnp.tanh(dense(config, config.hidden, "pooler")(firsts))
        return Encoded(sequence, firsts, pooled, tuple(states))


def _at_places(
    states: Float[Array, "batch seq hidden"],
    allowed: Bool[Array, "batch #seq seq"],
    starts: Int[Array, "batch examples"] | None,
    read: Int[Array, "batch read"],
) -> tuple[Float[Array, "batch places hidden"], Bool[Array, "batch #places seq"]]:
    """Returns the states of each example's first token and then those to be read, and the keys
    that these may attend to.
    """
    if starts is None and not read.shape[1]:
        return states[:, :1], allowed  # a slice, whose gradient needs no scatter
    firsts = jnp.zeros((len(read), 1), read.dtype) if starts is None else starts
    places = jnp.concatenate([firsts, read], axis=1)
    return take(states, places), allowed if allowed.shape[1] == 1 else take(allowed, places)
