"""The optimiser of BERT: AdamW with clipping, warm-up and linear decay, as one optax chain.

With `bias_correction=False` and `epsilon=1e-6` it is the `AdamWeightDecayOptimizer` of google-
research/bert.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.parallel.sharding import parameter_name

WEIGHT_DECAY = (
    (r"(^|/)(bias|scale)$", False),
    (r"(^|/)(kernel|embedding)$", True),
)
"""First match decides whether a parameter decays: biases and LayerNorms do not."""


def decays(params: Any) -> Any:
    """Returns a tree of bools, which parameters decay; raises ConfigError for one that no rule
    covers.
    """

    def rule(path: Any, leaf: Any) -> bool:
        del leaf
        name = parameter_name(path)
        for pattern, decision in WEIGHT_DECAY:
            if re.search(pattern, name):
                return decision
        raise ConfigError(
            f"no weight decay rule covers parameter {name}; add one to training/optim.py"
        )

    return jax.tree_util.tree_map_with_path(rule, params)


def make_schedule(
    optimizer: config_lib.Optimizer, steps: int, *, peak: jax.Array | None = None
) -> optax.Schedule:
    """Returns step -> learning rate: linear from 0 over the warm-up, then linear to 0 at `steps`,
    or constant.

    The first update (step 0) has rate `peak / warm-up steps`, so that no step is wasted at rate 0.
    `peak` stands for `optimizer.learning_rate` where one program serves several rates.
    """
    warmup = max(1, round(optimizer.warmup * steps))
    highest = optimizer.learning_rate if peak is None else peak

    def schedule(step: Any) -> jax.Array:
        position = jnp.asarray(step, jnp.float32)
        rising = (position + 1.0) / warmup
        falling = (
            (steps - position) / max(1, steps - warmup) if optimizer.schedule == "linear" else 1.0
        )
        return highest * jnp.clip(jnp.minimum(rising, falling), 0.0, 1.0)

    return schedule


class _Moments(NamedTuple):
    first: Any
    second: Any


def _scale_by_uncorrected_adam(
    beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformation:
    """Returns Adam's direction without bias correction, as the released BERT code computes it."""

    def init(params: Any) -> _Moments:
        return _Moments(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.first, updates)
        second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.second, updates)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), first, second)
        return direction, _Moments(first, second)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    optimizer: config_lib.Optimizer, steps: int, *, peak: jax.Array | None = None
) -> optax.GradientTransformation:
    """Returns the chain clip -> Adam -> decoupled decay -> learning rate, for a run of `steps`
    updates; `peak` as `make_schedule` takes it.
    """
    moments = (optimizer.beta1, optimizer.beta2, optimizer.epsilon)
    adam = (
        optax.scale_by_adam(*moments)
        if optimizer.bias_correction
        else _scale_by_uncorrected_adam(*moments)
    )
    return optax.chain(
        optax.clip_by_global_norm(optimizer.clip)
        if optimizer.clip is not None
        else optax.identity(),
        adam,
        optax.add_decayed_weights(optimizer.weight_decay, mask=decays),
        optax.scale_by_learning_rate(make_schedule(optimizer, steps, peak=peak)),
    )
