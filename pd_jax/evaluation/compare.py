"""Compares models on the same rows: the size, speed and scores of each."""

import dataclasses
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from pd_jax.errors import ConfigError, WeightsError
from pd_jax.evaluation.predictions import Predictions
from pd_jax.models.export import onnx_graph, programs
from pd_jax.models.export.results import Measured
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf, layout
from pd_jax.training.metrics import finite

TIMED_ROWS = (1, 32)
"""How many texts of `programs.LENGTH` tokens are timed at once."""

Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
"""Returns the rows, from the start at every call: `data.feed.batches.evaluation_batches`."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """A model made ready to run.

    `program` is jax, onnx or onnx_int8, `device` what computes, `megabytes` the size of its file.
    """

    program: str
    device: str
    megabytes: float
    run: programs.Program


def devices() -> tuple[Any, ...]:
    """Returns where jax runs a model here: on the accelerator, where there is one, and the CPU."""
    return tuple(dict.fromkeys((jax.local_devices()[0], programs.host_device())))


def check_programs(wanted: Iterable[str]) -> None:
    """Raises ConfigError where ONNX is wanted, and onnx or onnxruntime is not installed."""
    packages = ("onnx", "onnxruntime")
    for name in wanted:
        lacking = [package for package in packages if importlib.util.find_spec(package) is None]
        if name != "jax" and lacking:
            raise ConfigError(
                f"program {name!r} needs {' and '.join(lacking)}; pip install 'pd_jax[export]', or "
                "leave it out of programs"
            )


def runners(model: hf.SavedModel, wanted: Iterable[str]) -> Iterator[Runner]:
    """Yields a classifier in each wanted program (`check_programs`); jax once for the accelerator,
    once for the CPU.
    """
    config, params = model.config, model.params
    weights = 4e-6 * sum(leaf.size for leaf in layout.flatten(params).values())
    exact = b""
    for name in wanted:
        if name == "jax":
            for device in devices():
                run = programs.jax_program(config, params, device)
                yield Runner(name, device.device_kind, weights, run)
            continue
        exact = exact or onnx_graph.build(config, params).SerializeToString()
        content = onnx_graph.quantise(exact) if name == "onnx_int8" else exact
        run = programs.onnx_program(content)
        assert run is not None, "check_programs ensures it"
        yield Runner(name, "cpu", len(content) / 1e6, run)


def predictions(
    run: programs.Program,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[Float32[np.ndarray, "rows outputs"], np.ndarray]:
    """Returns the logits and labels of every row, in the dataset's order."""
    found: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    for batch in batches:
        inputs = (batch["input_ids"], batch["segment_ids"], batch["input_mask"])
        logits = np.asarray(run(*inputs)["logits"], np.float32)
        real = batch["weight"] > 0
        found.append(logits[real])
        labels.append(batch["label"][real])
        rows.append(batch["row"][real])
        advance(int(real.sum()))
    order = np.argsort(np.concatenate(rows))
    return np.concatenate(found)[order], np.concatenate(labels)[order]


def in_label_order(
    name: str, model: hf.SavedModel, *, task: str, labels: tuple[str, ...]
) -> list[int] | None:
    """Returns the model's outputs in the order of a dataset's labels; None if in order already.

    Raises:
      WeightsError: the model has no classifier, or is of another task or other labels.
    """
    if "classifier" not in model.params:
        raise WeightsError(f"{name} has no classifier; compare fine-tuned or distilled models")
    own = () if model.task == "regression" else model.labels
    if model.task != task or set(own) != set(labels):
        raise WeightsError(
            f"{name} is for {model.task} with the labels {', '.join(own) or 'none'}, but "
            f"the records are for {task} with {', '.join(labels) or 'none'}; compare models of one "
            "task, name this one's outputs with labels, or correct problem_type in its config.json"
        )
    order = [own.index(label) for label in labels]
    return None if order == sorted(order) else order


def compare(
    models: Mapping[str, hf.SavedModel],
    batches: Batches,
    *,
    task: str,
    labels: tuple[str, ...],
    wanted: Iterable[str],
    advance: Callable[[str, int], None] = lambda name, rows: None,
) -> Iterator[Measured]:
    """Yields every model in every wanted program; the first is what the others are compared with.

    Args:
      models: by name, each with a classifier of the task.
      batches: the labelled rows.
      task: of the rows.
      labels: of the rows, in order.
      wanted: jax, onnx, onnx_int8.
      advance: told (model and program, rows) as rows are answered.
    """
    reference: np.ndarray | None = None
    orders = {
        name: in_label_order(name, model, task=task, labels=labels)
        for name, model in models.items()
    }
    for name, model in models.items():
        own: np.ndarray | None = None
        for runner in runners(model, wanted):
            title = f"{name}, {runner.program}"
            logits, label = predictions(
                runner.run, batches(), advance=lambda rows, title=title: advance(title, rows)
            )
            logits = logits if orders[name] is None else logits[:, orders[name]]
            scores = finite(Predictions(logits, label, reference).scores(task))
            apart = math.inf if own is None else float(np.abs(logits - own).max())
            difference = apart if math.isfinite(apart) else None
            own = logits if own is None else own
            reference = logits if reference is None else reference
            yield _measured(name, model, runner, scores, difference)


def _measured(
    name: str,
    model: hf.SavedModel,
    runner: Runner,
    scores: Mapping[str, float | None],
    difference: float | None,
) -> Measured:
    config: BertConfig = model.config
    times = {str(rows): programs.milliseconds(runner.run, config, rows=rows) for rows in TIMED_ROWS}
    return Measured(
        name=name,
        parameters=sum(leaf.size for leaf in layout.flatten(model.params).values()),
        layers=config.layers,
        hidden=config.hidden,
        program=runner.program,
        device=runner.device,
        megabytes=round(runner.megabytes, 3),
        scores=scores,
        difference=difference,
        tokens=min(programs.LENGTH, config.positions),
        milliseconds=times,
        rows_per_second={rows: 1e3 * int(rows) / time for rows, time in times.items()},
    )
