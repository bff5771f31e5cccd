"""The losses of a row, in nats and float32 whatever the logits' type."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "*rows classes"], targets: Int[Array, "*rows"]
) -> tuple[Float[Array, "*rows"], Bool[Array, "*rows"]]:
    """Returns the negative log-likelihood of each target in nats, and whether it had the largest
    logit.
    """
    logits = logits.astype(jnp.float32)
    target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    largest = jax.lax.stop_gradient(logits.max(axis=-1))
    normaliser = largest + jnp.log(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1))
    return normaliser - target_logit, target_logit >= largest


def binary_cross_entropy(
    logits: Float[Array, "*rows labels"], target: Float[Array, "*rows labels"]
) -> Float[Array, "*rows labels"]:
    """Returns the cross-entropy of independent Bernoulli predictions against target probabilities,
    in nats.
    """
    return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def soft_cross_entropy(
    student: Float[Array, "*rows classes"],
    teacher: Float[Array, "*rows classes"],
    *,
    temperature: float,
) -> Float[Array, "*rows"]:
    """Returns T^2 * -sum_y softmax(teacher/T)_y log softmax(student/T)_y for each row, in nats."""
    target = jax.nn.softmax(teacher.astype(jnp.float32) / temperature)
    predicted = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    return -(temperature**2) * jnp.sum(target * predicted, axis=-1)


def kl_divergence(
    student: Float[Array, "*rows classes"], teacher: Float[Array, "*rows classes"]
) -> Float[Array, "*rows"]:
    """Returns KL(teacher || student) of each row's softmax at temperature 1, in nats."""
    target = jax.nn.log_softmax(teacher.astype(jnp.float32))
    predicted = jax.nn.log_softmax(student.astype(jnp.float32))
    return jnp.sum(jnp.exp(target) * (target - predicted), axis=-1)
