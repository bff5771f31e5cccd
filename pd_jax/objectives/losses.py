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


_SMALLEST = 1e-30


def top_k_divergence(
    student: Float[Array, "*rows classes"],
    tokens: Int[Array, "*rows kept"],
    teacher: Float[Array, "*rows kept"],
    normaliser: Float[Array, "*rows"],
) -> Float[Array, "*rows"]:
    """Returns KL(teacher || student) of each row in nats, where all classes that `tokens` leaves
    out count as one: their probabilities are added up on both sides.

    It is never more than the KL over all classes, and equals it where `tokens` names them all.

    Args:
      student: its logits of every class.
      tokens: the classes that are kept of the teacher, each once.
      teacher: its logits of these classes.
      normaliser: the logarithm of the sum of exp over all of the teacher's logits.
    """
    student = student.astype(jnp.float32)
    whole = jax.nn.logsumexp(student, axis=-1)
    target = teacher.astype(jnp.float32) - normaliser[..., None]
    predicted = jnp.take_along_axis(student, tokens, axis=-1) - whole[..., None]
    kept = jnp.sum(jnp.exp(target) * (target - predicted), axis=-1)
    if tokens.shape[-1] == student.shape[-1]:
        return kept
    # One minus the sum of the student's kept probabilities would lose all digits, and its gradient,
    # where little is left over; the sum over the others does not.
    without = jnp.vectorize(lambda row, at: row.at[at].set(-jnp.inf), signature="(v),(k)->(v)")
    others = jax.nn.logsumexp(without(student, tokens), axis=-1) - whole
    rest = jnp.maximum(-jnp.expm1(jax.nn.logsumexp(target, axis=-1)), 0.0)
    return kept + rest * (jnp.log(jnp.maximum(rest, _SMALLEST)) - others)
