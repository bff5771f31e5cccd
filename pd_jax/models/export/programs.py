"""Exported models as other programs run them: each a function of a batch to outputs by name.

A program that is not installed gives None, and the caller says that nothing was compared with it.
"""

import importlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pd_jax.errors import WeightsError
from pd_jax.models.export import stablehlo
from pd_jax.models.export.forward import INPUTS
from pd_jax.models.sizes import BertConfig

Program = Callable[..., Mapping[str, Any]]

_RUNS = 10
_LENGTH = 128


def transformers_program(folder: epath.Path) -> Program | None:
    """Returns the model in a Hugging Face folder, as transformers loads and runs it on the CPU.

    Raises:
      WeightsError: transformers finds a tensor missing, left over or misshapen.
    """
    try:
        torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    except ImportError:
        return None
    (name,) = transformers.AutoConfig.from_pretrained(folder).architectures
    model, found = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    if faults := {kind: names for kind, names in found.items() if names}:
        raise WeightsError(f"transformers does not take {folder} as it is: {faults}")
    names = {"prediction_logits": "logits", "seq_relationship_logits": "next_sentence_logits"}

    def run(*batch: np.ndarray) -> dict[Any, Any]:
        inputs = {key: torch.from_numpy(value) for key, value in zip(INPUTS, batch, strict=True)}
        with torch.no_grad():
            outputs = model.eval()(**inputs)
        return {names.get(key, key): value.numpy() for key, value in outputs.items()}

    return run


def onnx_program(path: epath.Path) -> Program | None:
    """Returns an ONNX file as onnxruntime runs it on the CPU."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(*batch: np.ndarray) -> dict[Any, Any]:
        inputs = {key: value.astype(np.int64) for key, value in zip(INPUTS, batch, strict=True)}
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def stablehlo_program(path: epath.Path) -> Program:
    """Returns a StableHLO file as jax runs it."""
    call: Any = stablehlo.load(path.read_bytes()).call
    return lambda *batch: call(*(value.astype(np.int32) for value in batch))


def transformers_token_ids(folder: epath.Path, texts: Sequence[str]) -> list[list[int]] | None:
    """Returns the ids that transformers' AutoTokenizer gives to texts, special tokens included."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        return None
    return transformers.AutoTokenizer.from_pretrained(folder)(list(texts))["input_ids"]


def milliseconds(program: Program, config: BertConfig) -> float:
    """Returns the median time of one text of 128 tokens on this machine."""
    shape = (1, min(_LENGTH, config.positions))
    batch = (np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.ones(shape, np.int64))
    times = []
    for _ in range(_RUNS + 2):
        start = time.perf_counter()
        for value in program(*batch).values():
            np.asarray(value)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[2:])
