"""What a training stage's model begins with: another model's weights, or those of its seed."""

from typing import Any

import jax
import numpy as np

from pd_jax import config as config_lib
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.errors import TokenizerError, WeightsError
from pd_jax.models import initialise
from pd_jax.models.weights import hf
from pd_jax.objectives.objective import Objective
from pd_jax.training import arrays, rng


def make(
    stage: config_lib.TrainStage,
    objective: Objective,
    params_at: Any,
    *,
    labels: tuple[str, ...],
    tokenizer: Tokenizer,
) -> tuple[Any, str]:
    """Returns the first weights on the devices, and in words where each came from.

    Args:
      stage: names the seed, and the model to begin with.
      objective: initialises what that model lacks.
      params_at: the sharding of each parameter.
      labels: the classifier's, in order.
      tokenizer: the records'.

    Raises:
      WeightsError: the model to begin with does not fit, or has another vocabulary.
    """
    params = jax.jit(objective.init, out_shardings=params_at)(rng.root_key(stage.seed))
    if stage.init.source is None:
        return params, "every parameter: from the seed\n"
    params, report = initialise.initialise(
        params,
        hf.load(stage.init.source),
        stage.init,
        model=objective.config,
        labels=labels,
        same_tokenizer=_reads_as(stage.init.source, tokenizer, stage),
    )
    return arrays.place(params, params_at), report.text()


def carried(stage: config_lib.TrainStage, objective: Objective) -> dict[str, np.ndarray]:
    """Returns by path what a masked language model is saved with of the model that it began with,
    though nothing in its training reads it: pooler and next-sentence head.

    Raises:
      WeightsError: the model to begin with cannot be read.
    """
    kind, init = stage.objective, stage.init
    if init.source is None or init.scope != "model" or not isinstance(kind, config_lib.Masked):
        return {}
    if isinstance(kind, config_lib.MaskedLanguageModel) and kind.next_sentence:
        return {}  # it trains both
    own: Any = jax.eval_shape(objective.init, rng.root_key(stage.seed))
    return initialise.carried(own, hf.load(init.source))


def _reads_as(source: str, tokenizer: Tokenizer, stage: config_lib.TrainStage) -> bool:
    """Returns whether a model is known to have the records' vocabulary.

    Raises:
      WeightsError: it has another, so that its embeddings would stand for other words.
    """
    try:
        theirs = load_tokenizer(source)
    except TokenizerError:  # of weights without one
        return False
    if theirs.pieces != tokenizer.pieces:
        records = config_lib.several(stage.data.records)[0]
        raise WeightsError(
            f"init.source={source} has another vocabulary than {records}, so that its embeddings "
            "would stand for other words; build the records with its tokenizer"
        )
    return True


def longest_rows(stage: config_lib.TrainStage, positions: int) -> int:
    """Returns the tokens of the longest rows that a stage's model has learnt to read, there or as
    the one that it began with; it has so many `positions`.
    """
    own = stage.data.lengths[-1]
    if stage.init.source is None or stage.init.scope == "word_embeddings":
        return own
    return min(max(own, hf.reads(stage.init.source)), positions)
