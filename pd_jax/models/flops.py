"""Floating-point operations of one training step, counted by hand from the model's shape.

Matrix products only: 2 for each multiply and add. XLA's own count agrees within a few percent; it
also has the softmaxes and normalisations, and counts the body of a loop once.
"""

from pd_jax.models.sizes import BertConfig


def forward_flops(
    config: BertConfig,
    *,
    rows: int,
    length: int,
    predictions: int = 0,
    outputs: int = 0,
    next_sentence: bool = False,
    whole: bool = False,
) -> int:
    """Returns the operations of a forward pass over `rows` sequences of `length` tokens.

    `predictions` positions a row go through the MLM head, with `next_sentence` the pooled state
    through that head too, or without predictions through one of `outputs` numbers. The last layer
    is counted at these places and the first token alone, or with `whole` at all.
    """
    hidden, inner, vocabulary = config.hidden, config.intermediate, config.vocab_size
    looked_at = 2 * hidden * hidden  # keys and values
    renewed = 2 * hidden * hidden + 2 * hidden * inner + 2 * length * hidden
    places = length if whole or predictions >= length else 1 + predictions
    layers = config.layers * length * looked_at
    layers += ((config.layers - 1) * length + places) * renewed
    head = predictions * (hidden * hidden + hidden * vocabulary)
    if next_sentence or not predictions:  # then something reads the pooler
        head += hidden * hidden + hidden * (2 if next_sentence else outputs)
    return 2 * rows * (layers + length * config.token_types * hidden + head)


def step_flops(forward: int) -> int:
    """Returns the operations of a training step whose forward pass has so many: the backward pass
    costs two forward ones.

    Layers that are recomputed (`remat`) are not counted twice: only useful work counts.
    """
    return 3 * forward
