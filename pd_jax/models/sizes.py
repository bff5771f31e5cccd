"""The model sizes: Turc et al.'s grid of 24 (Table 1), the five released names, and BERT-LARGE."""

import dataclasses
import re

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError, did_you_mean

LAYERS = (2, 4, 6, 8, 10, 12)
HIDDEN = (128, 256, 512, 768)
GRID = tuple(f"L{layers}_H{hidden}" for layers in LAYERS for hidden in HIDDEN)
NAMES = {
    "tiny": "L2_H128",
    "mini": "L4_H256",
    "small": "L4_H512",
    "medium": "L8_H512",
    "base": "L12_H768",
    "large": "L24_H1024",
}
_HEAD_SIZE = 64
_PATTERN = re.compile(r"L([1-9]\d*)_H([1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of one BERT: everything its forward pass depends on besides the parameters."""

    vocab_size: int
    layers: int
    hidden: int
    heads: int
    intermediate: int
    positions: int = 512
    token_types: int = 2
    gelu: str = "exact"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    position_init: str = "normal"
    norm_epsilon: float = 1e-12
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ConfigError(
                f"hidden size {self.hidden} does not divide into {self.heads} heads; set "
                "model.heads to a divisor"
            )


def canonical(size: str) -> str:
    """Returns `L4_H256` for `L4_H256`, `l4_h256` and `Mini`; raises ConfigError for other text."""
    name = NAMES.get(size.lower(), size.upper())
    if not _PATTERN.fullmatch(name):
        raise ConfigError(
            f"model.size={size!r} is not a size; write L4_H256 (layers, hidden size) or one of "
            f"{', '.join(known.capitalize() for known in NAMES)}"
            + did_you_mean(size.lower(), NAMES)
        )
    return name


def bert_config(
    model: config_lib.Model, *, vocab_size: int, compute: config_lib.Compute | None = None
) -> BertConfig:
    """Returns the shape of the model that a config names, over a vocabulary of `vocab_size`
    entries.
    """
    compute = compute or config_lib.Compute()
    layers, hidden = map(int, _PATTERN.fullmatch(canonical(model.size)).groups())  # type: ignore[union-attr]
    return BertConfig(
        vocab_size=vocab_size,
        layers=layers,
        hidden=hidden,
        heads=model.heads or max(1, hidden // _HEAD_SIZE),
        intermediate=model.intermediate or 4 * hidden,
        positions=model.positions,
        gelu=model.gelu,
        dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        initializer_range=model.initializer_range,
        position_init=model.position_init,
        dtype=compute.dtype,
        remat=compute.remat,
    )
