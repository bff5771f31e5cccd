"""BERT with its heads: MLM and NSP for pre-training, one projection for a task.

Both modules have the encoder under `bert`, so that weights move between them by name.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pd_jax.models.attention import Dense, dense, dropout_key
from pd_jax.models.bert import Bert, Encoded, gather_positions, no_positions, norm
from pd_jax.models.dropout import dropout
from pd_jax.models.gelu import gelu
from pd_jax.models.products import add_bias
from pd_jax.models.sizes import BertConfig


class MlmHead(nn.Module):
    """Transform, LayerNorm, and the decoder tied to the word embeddings."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, states: Float[Array, "rows hidden"], embedding: Float[Array, "vocab hidden"]
    ) -> Float[Array, "rows vocab"]:
        config = self.config
        states = dense(config, config.hidden, "transform")(states)
        states = norm(config)(gelu(states, kind=config.gelu)).astype(config.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (config.vocab_size,), jnp.float32)
        logits = jnp.einsum(
            "rh,vh->rv", states, embedding.astype(config.dtype), preferred_element_type=jnp.float32
        )
        return add_bias(logits, bias)


class PretrainingModel(nn.Module):
    """BERT with the MLM head and the next-sentence head, as released."""

    config: BertConfig

    def setup(self) -> None:
        self.bert = Bert(self.config)
        self.mlm = MlmHead(self.config)
        self.nsp = _to_logits(self.config, 2)

    def __call__(
        self,
        input_ids: Int[Array, "batch seq"],
        segment_ids: Int[Array, "batch seq"],
        input_mask: Int[Array, "batch seq"],
        positions: Int[Array, "batch predictions"],
        starts: Int[Array, "batch examples"] | None = None,
    ) -> tuple[Float[Array, "batch predictions vocab"], Float[Array, "batch *examples 2"]]:
        """Returns MLM logits at `positions` only, and NSP logits (0: is the next sentence, 1: is
        not), in float32.
        """
        encoded = self.bert(input_ids, segment_ids, input_mask, starts, positions=positions)
        return self.predict(encoded.sequence), self.nsp(encoded.pooled)

    def masked_logits(
        self, positions: Int[Array, "batch predictions"], *tokens: Any
    ) -> Float[Array, "batch predictions vocab"]:
        """Returns MLM logits at `positions` only, in float32, of `tokens` (as `Bert` takes them);
        neither the next-sentence head nor the pooler is needed.
        """
        return self.predict(self.bert(*tokens, positions=positions, pool=False).sequence)

    def logits_and_sequence(
        self, positions: Int[Array, "batch predictions"], *tokens: Any
    ) -> tuple[Float[Array, "batch predictions vocab"], Float[Array, "batch seq hidden"]]:
        """Returns what `masked_logits` does, and the last layer's states of every token."""
        sequence = self.bert(*tokens, pool=False).sequence
        return self.predict(gather_positions(sequence, positions)), sequence

    def predict(
        self, states: Float[Array, "batch predictions hidden"]
    ) -> Float[Array, "batch predictions vocab"]:
        """Returns the MLM logits of the last layer's states at some positions."""
        embedding = self.bert.variables["params"]["embeddings"]["word"]["embedding"]
        logits = self.mlm(states.reshape(-1, self.config.hidden), embedding)
        return logits.reshape(*states.shape[:2], self.config.vocab_size)


class TaskModel(nn.Module):
    """BERT with one projection of the pooled state to `outputs` numbers: classes, values, or
    independent labels.
    """

    config: BertConfig
    outputs: int

    def setup(self) -> None:
        self.bert = Bert(self.config)
        self.classifier = _to_logits(self.config, self.outputs)

    def __call__(
        self,
        input_ids: Int[Array, "batch seq"],
        segment_ids: Int[Array, "batch seq"],
        input_mask: Int[Array, "batch seq"],
        starts: Int[Array, "batch examples"] | None = None,
    ) -> Float[Array, "batch *examples outputs"]:
        """Returns the task's logits in float32."""
        return self.logits_and_encoded(input_ids, segment_ids, input_mask, starts)[0]

    def logits_and_encoded(
        self, *tokens: Any
    ) -> tuple[Float[Array, "batch *examples outputs"], Encoded]:
        """Returns the task's logits in float32, and the batch of `tokens` (as `Bert` takes them)
        encoded; of the last layer only first tokens.
        """
        encoded = self.bert(*tokens, positions=no_positions(tokens[0]))
        return self.head(encoded), encoded

    def head(self, encoded: Encoded) -> Float[Array, "batch *examples outputs"]:
        """Returns the logits of an encoded batch."""
        pooled = dropout(encoded.pooled, self.config.dropout, dropout_key(self))
        return self.classifier(pooled)


def _to_logits(config: BertConfig, features: int) -> Dense:
    """Returns a projection in float32, whatever the config computes in: logits of three digits,
    as bfloat16 has, are too coarse for a loss, and these few columns cost nothing.
    """
    return dense(dataclasses.replace(config, dtype="float32"), features)
