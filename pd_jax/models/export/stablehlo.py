"""A BERT as StableHLO: one file that jax reads and runs without pd_jax.

Batch and length are symbolic, the weights are inside, and the same file runs on CPU, GPU and TPU.
Later versions of jax read it for at least half a year, by jax.export's own promise.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from pd_jax.models.export.forward import make_forward
from pd_jax.models.sizes import BertConfig

PLATFORMS = ("cpu", "cuda", "tpu")


def serialise(config: BertConfig, params: Mapping[str, Any]) -> bytes:
    """Returns the model as `jax.export` writes it: int32 [batch, length] inputs, named outputs.

    The file asks for float32 of every product: by default a GPU takes TF32 and a TPU one pass of
    bfloat16, and the outputs would be those of another model.
    """
    scope = export.SymbolicScope(("batch >= 1", "length >= 1", f"length <= {config.positions}"))
    shape = export.symbolic_shape("batch, length", scope=scope)
    inputs = (jax.ShapeDtypeStruct(shape, jnp.int32),) * 3
    forward = jax.jit(make_forward(config, params))
    with jax.default_matmul_precision("float32"):
        return bytes(export.export(forward, platforms=PLATFORMS)(*inputs).serialize())


def load(content: bytes) -> export.Exported:
    """Returns the model whose `call(input_ids, token_type_ids, attention_mask)` gives outputs."""
    return export.deserialize(bytearray(content))
