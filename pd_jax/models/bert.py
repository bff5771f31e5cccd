"""The encoder of BERT (Devlin et al. 2018): post-LayerNorm, learned positions, pooler.

Dropout is on when the caller passes a `dropout` stream, and off otherwise. Parameters and
LayerNorms are float32.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pd_jax.models.attention import SelfAttention, dense, dropout_key, initializer
from pd_jax.models.dropout import dropout
from pd_jax.models.sizes import BertConfig
from pd_jax.parallel.sharding import constrain_batch


class Encoded(NamedTuple):
    """What the encoder makes of a batch."""

    sequence: Float[Array, "batch seq hidden"]
    """The last layer's states."""
    pooled: Float[Array, "batch hidden"]
    """tanh of a projection of the first token's last state."""
    states: tuple[Float[Array, "batch seq hidden"], ...]
    """The embeddings' output and every layer's, in order: layers + 1 entries."""


def norm(config: BertConfig, name: str = "norm") -> nn.LayerNorm:
    """Returns a LayerNorm computed in float32."""
    return nn.LayerNorm(epsilon=config.norm_epsilon, dtype=jnp.float32, name=name)


class Embeddings(nn.Module):
    """The sum of word, position and token-type embeddings, normalised."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, input_ids: Int[Array, "batch seq"], segment_ids: Int[Array, "batch seq"]
    ) -> Float[Array, "batch seq hidden"]:
        config = self.config
        init = initializer(config)

        def table(name: str, size: int) -> nn.Embed:
            return nn.Embed(size, config.hidden, embedding_init=init, name=name)

        word, position, token_type = (
            table("word", config.vocab_size),
            table("position", config.positions),
            table("token_type", config.token_types),
        )
        summed = (
            word(input_ids)
            + position(jnp.arange(input_ids.shape[1]))[None]
            # Two rows: a product with a one-hot costs less than a gather, and its gradient needs no
            # scatter.
            + jax.nn.one_hot(segment_ids, config.token_types) @ token_type.embedding
        )
        states = norm(config)(summed).astype(config.dtype)
        return dropout(states, config.dropout, dropout_key(self))


class Layer(nn.Module):
    """One encoder layer: self-attention and a two-layer MLP, each added to its input and
    normalised.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self, states: Float[Array, "batch seq hidden"], input_mask: Int[Array, "batch seq"]
    ) -> Float[Array, "batch seq hidden"]:
        config = self.config
        attended = SelfAttention(config, name="attention")(states, input_mask)
        attended = dropout(attended, config.dropout, dropout_key(self))
        states = norm(config, "attention_norm")(states + attended).astype(config.dtype)
        grown = dense(config, config.intermediate, "mlp_in")(states)
        grown = jax.nn.gelu(grown, approximate=config.gelu == "tanh")
        shrunk = dense(config, config.hidden, "mlp_out")(grown)
        shrunk = dropout(shrunk, config.dropout, dropout_key(self))
        return norm(config, "mlp_norm")(states + shrunk).astype(config.dtype)


class Bert(nn.Module):
    """The encoder and its pooler."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "batch seq"],
        segment_ids: Int[Array, "batch seq"],
        input_mask: Int[Array, "batch seq"],
    ) -> Encoded:
        config = self.config
        layer = nn.remat(Layer) if config.remat else Layer
        states = [constrain_batch(Embeddings(config, name="embeddings")(input_ids, segment_ids))]
        for index in range(config.layers):
            states.append(
                constrain_batch(layer(config, name=f"layer_{index}")(states[-1], input_mask))
            )
        pooled = jnp.tanh(dense(config, config.hidden, "pooler")(states[-1][:, 0]))
        return Encoded(states[-1], pooled, tuple(states))
