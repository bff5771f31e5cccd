"""Distillation of a masked language model (Sanh et al. 2019), with the teacher at hand.

The triple loss is 5 L_ce + 2 L_mlm + 1 L_cos: T^2 KL(teacher || student) over the vocabulary at
T = 2, masked language modelling, and one minus the cosine of both models' last states, over all
tokens that are no padding. L_ce may be held to the masked positions, which costs a sixth.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models.heads import PretrainingModel
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.losses import cross_entropy, kl_divergence
from pd_jax.objectives.mlm import Vocabulary, make_mlm, masked_batch, weights_at
from pd_jax.objectives.objective import (
    Batch,
    Objective,
    OnlineTeacher,
    Params,
    Sums,
    dropout_stream,
    tokens_of,
    weighted,
)

_TINY = 1e-8


def cosine_rows(
    student: Float[Array, "*rows hidden"], teacher: Float[Array, "*rows hidden"]
) -> Float[Array, "*rows"]:
    """Returns one minus the cosine of each pair of states."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    lengths = [
        jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(states), axis=-1), _TINY**2))
        for states in (student, teacher)
    ]
    return 1.0 - jnp.sum(student * teacher, axis=-1) / (lengths[0] * lengths[1])


def make_lm_distill(
    objective: config_lib.LanguageDistill,
    config: BertConfig,
    vocabulary: Vocabulary,
    teacher: OnlineTeacher,
) -> Objective:
    """Returns the triple loss over a teacher that reads the same masked tokens.

    Raises:
      ConfigError: the teacher has another vocabulary, or states of another width to compare.
    """
    _check_teacher(objective, config, teacher)
    model, theirs = PretrainingModel(config), PretrainingModel(teacher.config)

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        masked = masked_batch(batch, key, masking=objective, vocabulary=vocabulary)
        if objective.positions == "all":
            return at_every_token(batch, masked)
        return {**masked, "soft_weights": masked["prediction_weights"]}

    def teach(params: Params, batch: Batch) -> Batch:
        logits, encoded = _said(theirs, params, batch, None)
        taught = {**batch, "teacher_logits": logits}
        if objective.cosine_weight > 0:
            taught["teacher_sequence"] = encoded.sequence
        return taught

    def sums(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        logits, encoded = _said(model, params, batch, key)
        found = _said_sums(logits, batch, temperature=objective.temperature)
        if objective.cosine_weight > 0:
            apart = cosine_rows(encoded.sequence, batch["teacher_sequence"])
            found["cosine_loss"] = weighted(apart, _token_weights(batch))
        return found

    terms = {"soft_loss": objective.soft_weight, "mlm_loss": objective.mlm_weight}
    if objective.cosine_weight > 0:
        terms["cosine_loss"] = objective.cosine_weight
    plain = make_mlm(config_lib.MaskedLanguageModel(), config, vocabulary)
    made = Objective(config=config, terms=terms, init=plain.init, prepare=prepare, sums=sums)
    return made.taught(teacher.params, teach)


def at_every_token(batch: Batch, masked: Batch) -> Batch:
    """Returns the masked batch with every place of a row among `positions`, in order.

    `prediction_weights` are 0 but for the masked places; `soft_weights` are those of every token.
    """
    everywhere = _everywhere(batch)
    spread = jax.vmap(lambda at, weight: jnp.zeros(everywhere.shape[1]).at[at].set(weight))
    return {
        **masked,
        "positions": everywhere,
        "targets": batch["input_ids"],
        "prediction_weights": spread(masked["positions"], masked["prediction_weights"]),
        "soft_weights": _token_weights(batch),
    }


def _said_sums(
    logits: Float[Array, "batch predictions vocab"], batch: Batch, *, temperature: float
) -> Sums:
    """Returns the soft and the masked tokens' loss, and how like its teacher a student speaks."""
    goal, weight, hidden = (
        batch[name] for name in ("teacher_logits", "soft_weights", "prediction_weights")
    )
    soft = temperature**2 * kl_divergence(logits / temperature, goal / temperature)
    loss, right = cross_entropy(logits, batch["targets"])
    return {
        "soft_loss": weighted(soft, weight),
        "mlm_loss": weighted(loss, hidden),
        "mlm_accuracy": weighted(right, hidden),
        "kl": weighted(kl_divergence(logits, goal), weight),
        "agreement": weighted(logits.argmax(-1) == goal.argmax(-1), weight),
    }


def _check_teacher(
    objective: config_lib.LanguageDistill, config: BertConfig, teacher: OnlineTeacher
) -> None:
    if teacher.config.vocab_size != config.vocab_size:
        raise ConfigError(
            f"the teacher's vocabulary has {teacher.config.vocab_size} entries and the records' "
            f"{config.vocab_size}; build the records with the teacher's tokenizer"
        )
    if objective.cosine_weight > 0 and teacher.hidden != config.hidden:
        raise ConfigError(
            f"the student has {config.hidden} hidden units and the teacher {teacher.hidden}; "
            "give model.size the teacher's width, or set objective.cosine_weight=0"
        )


def _said(model: PretrainingModel, params: Params, batch: Batch, key: jax.Array | None) -> Any:
    """Returns the logits at a batch's positions, and the encoded batch."""
    return model.apply(
        {"params": params},
        batch["positions"],
        *tokens_of(batch),
        rngs=dropout_stream(key),
        method="logits_and_encoded",
    )


def _everywhere(batch: Batch) -> Int[Array, "batch seq"]:
    ids = batch["input_ids"]
    return jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)


def _token_weights(batch: Batch) -> Float[Array, "batch seq"]:
    """Returns the weight of each token: its example's, and 0 for padding."""
    return (batch["input_mask"] > 0) * weights_at(_everywhere(batch), batch)
