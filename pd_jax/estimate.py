"""Estimates how long the remaining stages of a pipeline will take on this machine.

A training stage takes its steps times the seconds of a step. Those are taken from a done stage of
the workdir with the same step, or else measured here: that step is compiled and run a few times on
a batch of the middle one of its lengths. Scoring and labelling are forward passes, a third of a
step each; a teacher that exists already, in a folder, is timed on a few batches. Text, compiling
and saving are not counted: they are minutes at most.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.config import reading
from pd_jax.data.feed.order import Order
from pd_jax.data.records import manifest
from pd_jax.data.text import corpora
from pd_jax.data.text.lines import Origin
from pd_jax.data.text.tables import Row
from pd_jax.errors import PdError, StageError
from pd_jax.models import sizes
from pd_jax.models.weights import hf
from pd_jax.parallel.mesh import mesh_for
from pd_jax.parallel.sharding import put_batch
from pd_jax.planning import Planned
from pd_jax.report.notation import duration
from pd_jax.stages.classifier import load_classifier
from pd_jax.stages.declared import declared
from pd_jax.stages.objectives import Facts, make_objective
from pd_jax.stages.predict import make_predict
from pd_jax.stages.torch_teacher import load_torch
from pd_jax.training import ahead, rng
from pd_jax.training.optim import make_schedule
from pd_jax.workdir import CONFIG, DONE, OUTPUT

_MEASURED_STEPS = 3
_MEASURED = f"measured here, {_MEASURED_STEPS} steps of each kind"
_FORWARD_SHARE = 1 / 3


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one stage, and their basis; None where they cannot be estimated."""

    name: str
    seconds: float | None
    basis: str


def estimate(
    pipeline: config_lib.Pipeline,
    planned: Mapping[str, Planned],
    *,
    only: Sequence[str] = (),
    say: Callable[[str], None],
) -> list[Estimate]:
    """Returns an estimate of every training or labelling stage, or of `only` some, that is not
    done.
    """
    steps = _Steps(pipeline, planned, say)
    found = []
    for item in planned.values():
        if item.done or (only and item.name not in only):
            continue
        if isinstance(item.stage, config_lib.TrainStage):
            found.append(steps.training(item.name, item.stage))
        elif isinstance(item.stage, config_lib.LabelStage):
            found.append(steps.labelling(item.name, item.stage))
    return found


def as_text(found: Sequence[Estimate]) -> str:
    """Returns the time of all stages, grouped by the basis of their estimates, and the total."""
    groups: dict[str, list[Estimate]] = {}
    for one in found:
        groups.setdefault(one.basis, []).append(one)
    lines = []
    for basis, of_basis in groups.items():
        lines.append(_line(of_basis, basis))
    unknown = [one.name for one in found if one.seconds is None]
    lines.append(_line(found, "in all, without text, compiling, saving"))
    if unknown:
        lines.append(
            f"not counted, as rows, teacher or packing are not known yet: {', '.join(unknown)}"
        )
    lines.append("--jobs shares the same cores: it fills idle time but makes no step faster")
    return "\n".join(lines)


def _line(found: Sequence[Estimate], what: str) -> str:
    time = duration(sum(one.seconds or 0.0 for one in found))
    return f"{len(found):5} stages  {time:>11}  {what}"


class _Steps:
    """Seconds per step, by what makes steps equal; each is determined once."""

    def __init__(
        self,
        pipeline: config_lib.Pipeline,
        planned: Mapping[str, Planned],
        say: Callable[[str], None],
    ):
        self._pipeline, self._planned, self._say = pipeline, planned, say
        self._known: dict[str, tuple[float, str]] = {}
        self._counted: dict[str, int | None] = {}
        folders = {item.folder.parent for item in planned.values()}
        for folder in folders:
            self._learn(folder)

    def training(self, name: str, stage: config_lib.TrainStage) -> Estimate:
        """Returns the seconds of a training stage, its final scoring included."""
        rows = self._epoch(stage) if stage.length.epochs is not None else 0
        if rows is None:
            return Estimate(name, None, "rows unknown")
        count = stage.length.in_steps(rows=rows, batch=stage.data.batch)
        if (found := self._seconds(name, stage)) is None:
            return Estimate(name, None, "packed rows")
        second, basis = found
        scored = sum(
            self._rows(records) or 0
            for records in (*stage.evaluation.sets.values(), *stage.evaluation.final.values())
        )
        return Estimate(name, second * (count + scored / stage.data.batch * _FORWARD_SHARE), basis)

    def labelling(self, name: str, stage: config_lib.LabelStage) -> Estimate:
        """Returns the seconds of a labelling stage, from a step of its teacher's training or from
        timed batches of a teacher in a folder.
        """
        rows = self._rows(stage.records)
        if rows is None:
            return Estimate(name, None, "rows unknown")
        teacher = self._pipeline.stage_of(stage.teacher)
        if isinstance(teacher, config_lib.TrainStage):
            if (found := self._seconds(name, teacher)) is None:
                return Estimate(name, None, "packed rows")
            second, basis = found
            return Estimate(name, second * rows / teacher.data.batch * _FORWARD_SHARE, basis)
        if config_lib.referred(stage.teacher) or stage.language is not None:
            return Estimate(name, None, "teacher unknown")
        key = json.dumps([stage.teacher, stage.batch, stage.lengths, stage.dtype])
        if key not in self._known:
            self._say(f"measuring batches of {name}")
            try:
                self._known[key] = measure_answers(self._pipeline, stage), _MEASURED
            except (PdError, RuntimeError) as fault:  # torch raises the latter when out of memory
                self._say(f"{name} is not counted: {fault}")
                return Estimate(name, None, "teacher not measured")
        second, basis = self._known[key]
        return Estimate(name, second * rows / stage.batch, basis)

    def _learn(self, folder: epath.Path) -> None:
        """Reads the speeds of the stages that are done."""
        seconds: dict[str, list[float]] = {}
        for stage in files.matching(folder, "*"):
            path = stage / DONE
            done = files.read_json(path, StageError) if path.exists() else {}
            if done.get("kind") == "train" and done.get("steps", 0) >= 20:
                config = files.read_json(stage / CONFIG, StageError)
                model = stage / OUTPUT["train"]
                if (model / hf.CONFIG_FILE).exists():
                    key = _key(config, vocab_size=hf.load_config(model).vocab_size)
                    seconds.setdefault(key, []).append(done["seconds"] / done["steps"])
        for key, values in seconds.items():
            self._known[key] = statistics.median(values), "as done stages with the same step took"

    def _seconds(self, name: str, stage: config_lib.TrainStage) -> tuple[float, str] | None:
        """Returns the seconds of a stage's step, and their basis; None where its rows are packed,
        in numbers that follow from their lengths, and no done stage has such a step.
        """
        key = _key(reading.to_json(stage), vocab_size=self._vocab_size(stage))
        if key not in self._known and stage.data.packing > 1:
            return None
        if key not in self._known:
            self._say(f"measuring a step of {name}")
            second = measure(self._pipeline, stage)
            self._known[key] = second, _MEASURED
        return self._known[key]

    def _vocab_size(self, stage: config_lib.TrainStage) -> int | None:
        """Returns the entries of the records' vocabulary, or those asked for where it is not made;
        None where that is unknown.
        """
        first = config_lib.several(stage.data.records)[0]
        item = self._item(first)
        if item is not None and item.done and item.output.exists():
            return manifest.read(item.output).tokenizer.vocab_size
        vocabulary = declared(self._pipeline, stage).vocabulary
        return vocabulary.size if vocabulary is not None else None

    def _item(self, reference: str) -> Planned | None:
        """Returns the stage that a reference names, as planned; None for a path."""
        found = config_lib.referred(reference)
        return self._planned.get(found.stage) if found else None

    def _epoch(self, stage: config_lib.TrainStage) -> int | None:
        """Returns how many examples an epoch has, or has at most; None where that is unknown."""
        data = stage.data
        found = [self._rows(reference) for reference in config_lib.several(data.records)]
        counts = [count for count in found if count is not None]
        if len(counts) < len(found):
            return None
        return Order(counts, weights=data.weights, rows=data.rows, seed=stage.seed).rows_per_epoch

    def _rows(self, reference: str) -> int | None:
        """Returns how many rows a dataset has, or has at most; None where that is unknown."""
        if reference not in self._counted:  # counting reads text, and many stages share a dataset
            self._counted[reference] = self._count(reference)
        return self._counted[reference]

    def _count(self, reference: str) -> int | None:
        if config_lib.referred(reference) is None:
            return manifest.read(reference).rows
        item = self._item(reference)
        if item is None:
            return None
        if item.done:
            return files.read_json(item.folder / DONE, StageError)["examples"]
        stage = item.stage
        if not isinstance(stage, config_lib.RecordsStage) or stage.examples.layout != "rows":
            return None
        sources = config_lib.several(stage.source)
        paths = [path for source in sources for path in config_lib.several(source.path)]
        if any(map(config_lib.referred, paths)):
            return None
        return sum(source.rows or sum(1 for _ in corpora.rows(source)) for source in sources)


def _declared(pipeline: config_lib.Pipeline, stage: config_lib.TrainStage) -> Facts:
    """Returns what a stage will read; raises StageError where that leaves its shapes unknown."""
    facts = declared(pipeline, stage)
    if facts.vocabulary is None:
        raise StageError(
            f"--estimate cannot tell the size of the vocabulary of {facts.where}; name in "
            "data.records a records stage whose tokenizer is a stage or an existing file"
        )
    if facts.task is None and not isinstance(stage.objective, config_lib.Masked):
        raise StageError(
            f"--estimate cannot tell the task that objective.kind={stage.objective.kind!r} learns "
            f"on {facts.where}; name a training stage or an existing folder as teacher"
        )
    return facts


def measure(pipeline: config_lib.Pipeline, stage: config_lib.TrainStage) -> float:
    """Returns the seconds of a stage's step on this machine, on a batch of a middle length.

    Raises:
      StageError: the vocabulary's size or the task is not known yet.
    """
    facts = _declared(pipeline, stage)
    assert facts.vocabulary is not None, "_declared ensures it"
    shape = sizes.bert_config(stage.model, vocab_size=facts.vocabulary.size, compute=stage.compute)
    length = _middle(stage.data.lengths)
    mesh = mesh_for(pipeline.run)
    objective = make_objective(stage, shape, facts)
    shapes = ahead.batch_shapes(objective, stage.data.batch, length)
    made = ahead.lower(
        objective,
        stage,
        batch=shapes,
        steps=_MEASURED_STEPS,
        mesh=mesh,
        platform=export.default_export_platform(),
    )
    step = made.lowered.compile()
    frozen, state, batch = (
        jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), tree)
        for tree in (objective.frozen, made.state, shapes)
    )
    schedule, key = make_schedule(stage.optimizer, _MEASURED_STEPS), rng.root_key(stage.seed)
    # Placed as in training: else every call would copy a teacher to the mesh, and count it.
    frozen, schedule, state, batch, key = jax.device_put(
        (frozen, schedule, state, batch, key), step.input_shardings[0]
    )

    def once() -> Any:
        nonlocal state
        state, sums = step(frozen, schedule, state, batch, key)
        return sums

    return _seconds_of(once)


def measure_answers(pipeline: config_lib.Pipeline, stage: config_lib.LabelStage) -> float:
    """Returns the seconds a teacher in a folder takes for a batch of a middle length here.

    Raises:
      ConfigError, WeightsError: the folder has no classifier that can read such a batch.
    """
    length = _middle(stage.lengths)
    if not hf.is_bert(stage.teacher):
        foreign = load_torch(stage.teacher, dtype=stage.dtype, length=length)
        rows = [Row("a " * length, None, None, Origin(stage.teacher), 1)] * stage.batch
        return _seconds_of(lambda: list(foreign.answers(rows, batch=stage.batch, length=length)))
    model, _ = load_classifier(stage.teacher)
    mesh = mesh_for(pipeline.run)
    predict = make_predict(model, mesh, dtype=stage.dtype, states=stage.states)
    ones = np.ones((stage.batch, length), np.int32)
    batch = put_batch({"input_ids": ones, "segment_ids": ones * 0, "input_mask": ones}, mesh)
    return _seconds_of(lambda: predict(batch))


def _middle(lengths: Sequence[int]) -> int:
    return lengths[len(lengths) // 2]


def _seconds_of(once: Callable[[], Any]) -> float:
    """Returns the seconds of a call; the first call, which compiles, is not counted."""
    jax.block_until_ready(once())
    began = time.monotonic()
    for _ in range(_MEASURED_STEPS):
        done = once()
    jax.block_until_ready(done)
    return (time.monotonic() - began) / _MEASURED_STEPS


def _key(stage: Mapping[str, Any], *, vocab_size: int | None) -> str:
    """Returns a key that is equal for stages whose steps cost the same."""
    data, objective = stage["data"], stage["objective"]
    # These have one head per row; a teacher that reads every batch, or a vocabulary, costs more.
    task = objective["kind"] in ("classify", "distill")
    parts = {
        "model": stage["model"],
        "vocab_size": vocab_size,
        "objective": "task" if task else objective,
        "batch": data["batch"],
        "lengths": data["lengths"],
        "packing": data.get("packing", 1),
        "compute": stage["compute"],
    }
    return json.dumps(parts, sort_keys=True)
