"""Exported models as other programs run them: each a function from a batch to outputs by name.

A program that is not installed is None, and the caller reports that nothing was compared with it.
"""

import contextlib
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.errors import WeightsError
from pd_jax.models.export import stablehlo
from pd_jax.models.export.forward import INPUTS, make_forward
from pd_jax.models.sizes import BertConfig

Program = Callable[..., Mapping[str, Any]]

LENGTH = 128
"""Tokens of the texts that are timed, with models that can read so many."""

_TOKENIZER_ENDINGS = (".json", ".txt", ".model")
_FIRST_RUNS, _LEAST_RUNS, _RUNS = 2, 3, 20
_ENOUGH_SECONDS = 5.0
"""A slow program is timed fewer times."""


def transformers_program(folder: epath.Path) -> Program | None:
    """Returns the model in a Hugging Face folder, as transformers loads and runs it on the CPU.

    Raises:
      WeightsError: transformers finds a tensor missing, unexpected or misshapen.
    """
    try:
        torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    except ImportError:
        return None
    with _local(folder) as local:
        (name,) = transformers.AutoConfig.from_pretrained(local).architectures
        model, found = getattr(transformers, name).from_pretrained(local, output_loading_info=True)
    if faults := {kind: names for kind, names in found.items() if names}:
        raise WeightsError(f"transformers does not accept {folder} as it is: {faults}")
    names = {"prediction_logits": "logits", "seq_relationship_logits": "next_sentence_logits"}

    def run(*batch: np.ndarray) -> dict[Any, Any]:
        inputs = {key: torch.from_numpy(value) for key, value in zip(INPUTS, batch, strict=True)}
        with torch.no_grad():
            outputs = model.eval()(**inputs)
        return {names.get(key, key): value.numpy() for key, value in outputs.items()}

    return run


def jax_program(config: BertConfig, params: Mapping[str, Any], device: Any) -> Program:
    """Returns the model as it computes here, on one device, in float32 whatever the device's
    default is.
    """
    held = jax.device_put(params, device)

    @jax.jit
    def forward(params: Mapping[str, Any], *inputs: jax.Array) -> Mapping[str, Any]:
        with jax.default_matmul_precision("float32"):
            return make_forward(config, params)(*inputs)

    return lambda *batch: forward(held, *_on(device, batch))


def _on(device: Any, batch: Sequence[np.ndarray]) -> list[jax.Array]:
    return jax.device_put([np.int32(value) for value in batch], device)


def host_device() -> Any:
    """Returns this process's CPU, or its first device where jax was told to leave the CPU out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def onnx_program(content: bytes) -> Program | None:
    """Returns an ONNX file's content as onnxruntime runs it on the CPU."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(*batch: np.ndarray) -> dict[Any, Any]:
        inputs = {key: value.astype(np.int64) for key, value in zip(INPUTS, batch, strict=True)}
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def stablehlo_program(path: epath.Path) -> Program:
    """Returns a StableHLO file as jax runs it, on the device of what it is compared with."""
    call: Any = stablehlo.load(path.read_bytes()).call
    return lambda *batch: call(*_on(host_device(), batch))


def transformers_tokens(
    folder: epath.Path, texts: Sequence[str | tuple[str, str]]
) -> list[tuple[list[int], list[int]]] | None:
    """Returns the ids, special tokens included, and segments that transformers' AutoTokenizer gives
    to texts and pairs of texts; None where transformers is not installed.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        return None
    with _local(folder, endings=_TOKENIZER_ENDINGS) as local:
        tokenizer = transformers.AutoTokenizer.from_pretrained(local)
        framed = [
            tokenizer(*((text,) if isinstance(text, str) else text), return_token_type_ids=True)
            for text in texts
        ]
        return [(one["input_ids"], one["token_type_ids"]) for one in framed]


@contextlib.contextmanager
def _local(folder: epath.Path, *, endings: Sequence[str] = ()) -> Iterator[epath.Path]:
    """Yields a folder that transformers can read: of a remote one a copy, which the end of the
    block removes, of all files or of those with such `endings`.
    """
    if not files.is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copied:
        for path in folder.iterdir():
            if not endings or path.suffix in endings:
                path.copy(epath.Path(copied) / path.name)
        yield epath.Path(copied)


def milliseconds(
    program: Program, config: BertConfig, *, rows: int = 1, length: int = LENGTH
) -> float:
    """Returns the median time of `rows` texts of `length` tokens, or as many as the model can read,
    at once, on this machine.
    """
    shape = (rows, min(length, config.positions))
    batch = (np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.ones(shape, np.int64))
    times: list[float] = []
    while len(times) < _FIRST_RUNS + _RUNS and (
        len(times) < _FIRST_RUNS + _LEAST_RUNS or sum(times) < _ENOUGH_SECONDS
    ):
        start = time.perf_counter()
        for value in program(*batch).values():
            np.asarray(value)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[_FIRST_RUNS:])
