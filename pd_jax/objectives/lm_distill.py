"""Distillation of a masked language model (Sanh et al. 2019), with the teacher at hand.

The triple loss is 5 L_ce + 2 L_mlm + 1 L_cos: T^2 KL(teacher || student) over the vocabulary at
T = 2, masked language modelling, and one minus the cosine of both models' last states, over all
tokens that are no padding. L_ce may be held to the masked positions, which costs a sixth.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models.heads import PretrainingModel
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.losses import cross_entropy, kl_divergence
from pd_jax.objectives.mlm import Vocabulary, make_mlm, mask_tokens, weights_at
from pd_jax.objectives.objective import (
    Batch,
    Objective,
    OnlineTeacher,
    Params,
    Sums,
    dropout_stream,
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
    model, theirs = PretrainingModel(config), PretrainingModel(teacher.config)

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        masked = mask_tokens(
            batch["input_ids"],
            batch["input_mask"],
            key,
            vocabulary=vocabulary,
            mask_rate=objective.mask_rate,
            whole_word=objective.whole_word,
        )
        hidden = masked.weights * weights_at(masked.positions, batch)
        places = {
            "positions": masked.positions,
            "targets": masked.targets,
            "prediction_weights": hidden,
            "soft_weights": hidden,
        }
        if objective.positions == "all":
            everywhere = jnp.broadcast_to(
                jnp.arange(batch["input_ids"].shape[1]), batch["input_ids"].shape
            )
            spread = jax.vmap(lambda at, weight: jnp.zeros(everywhere.shape[1]).at[at].set(weight))
            places = {
                "positions": everywhere,
                "targets": batch["input_ids"],
                "prediction_weights": spread(masked.positions, hidden),
                "soft_weights": (batch["input_mask"] > 0) * weights_at(everywhere, batch),
            }
        return {**batch, **places, "input_ids": masked.input_ids}

    def said_by(of: PretrainingModel, params: Params, batch: Batch, key: jax.Array | None) -> Any:
        inputs = (batch["input_ids"], batch["segment_ids"], batch["input_mask"])
        inputs += (batch["positions"], batch.get("starts"))
        streams = dropout_stream(key)
        return of.apply({"params": params}, *inputs, rngs=streams, method="logits_and_encoded")

    def teach(params: Params, batch: Batch) -> Batch:
        logits, encoded = said_by(theirs, params, batch, None)
        taught = {**batch, "teacher_logits": logits}
        if objective.cosine_weight > 0:
            taught["teacher_sequence"] = encoded.sequence
        return taught

    def sums(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        logits, encoded = said_by(model, params, batch, key)
        goal, weight = batch["teacher_logits"], batch["soft_weights"]
        scale = objective.temperature
        soft = scale**2 * kl_divergence(logits / scale, goal / scale)
        loss, right = cross_entropy(logits, batch["targets"])
        found = {
            "soft_loss": weighted(soft, weight),
            "mlm_loss": weighted(loss, batch["prediction_weights"]),
            "mlm_accuracy": weighted(right, batch["prediction_weights"]),
            "kl": weighted(kl_divergence(logits, goal), weight),
            "agreement": weighted(logits.argmax(-1) == goal.argmax(-1), weight),
        }
        if objective.cosine_weight > 0:
            everywhere = jnp.broadcast_to(
                jnp.arange(batch["input_ids"].shape[1]), batch["input_ids"].shape
            )
            tokens = (batch["input_mask"] > 0) * weights_at(everywhere, batch)
            apart = cosine_rows(encoded.sequence, batch["teacher_sequence"])
            found["cosine_loss"] = weighted(apart, tokens)
        return found

    terms = {"soft_loss": objective.soft_weight, "mlm_loss": objective.mlm_weight}
    if objective.cosine_weight > 0:
        terms["cosine_loss"] = objective.cosine_weight
    plain = make_mlm(config_lib.MaskedLanguageModel(), config, vocabulary)
    made = Objective(config=config, terms=terms, init=plain.init, prepare=prepare, sums=sums)
    return made.taught(teacher.params, teach)
