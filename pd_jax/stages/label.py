"""A teacher's logits over a dataset: computed once on all devices, stored shard by shard."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pd_jax import config as config_lib
from pd_jax.data.feed import evaluation_batches
from pd_jax.data.labelling import Answers, Teacher, label_dataset
from pd_jax.data.logit_shards import Values
from pd_jax.data.logits import LogitsManifest
from pd_jax.data.records import Dataset
from pd_jax.data.tokenizers import load_tokenizer
from pd_jax.errors import WeightsError
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.objectives.classify import task_outputs
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import mesh_for, row_share
from pd_jax.stages.context import Context, Done
from pd_jax.training.arrays import place, whole


def run_label(stage: config_lib.LabelStage, context: Context) -> Done:
    """Labels a dataset with a trained model."""
    mesh = mesh_for(context.run)
    manifest = label(stage, context.output("label"), mesh, title=context.name)
    return Done(
        examples=manifest.rows,
        outputs={"rows": manifest.rows, "outputs": manifest.outputs, "teacher": manifest.teacher},
    )


def label(
    stage: config_lib.LabelStage, folder: epath.Path, mesh: Mesh, *, title: str
) -> LogitsManifest:
    """Returns the manifest of the logit store of `stage.records` in `folder`, made where missing.

    Raises:
      LogitsError: the folder holds another finished store, or the teacher says infinity.
      MeshError: the batch does not divide over the mesh, or processes see different files.
      WeightsError: the teacher has no task head, or another vocabulary than the records.
    """
    dataset = Dataset.open(stage.records)
    teacher = hf.load(stage.teacher)
    if "classifier" not in teacher.params or teacher.task is None:
        raise WeightsError(f"{stage.teacher} has no task head; name a fine-tuned model as teacher")
    tokenizer = load_tokenizer(stage.teacher)
    if tokenizer.fingerprint != dataset.manifest.tokenizer.fingerprint:
        raise WeightsError(
            f"teacher {stage.teacher} and records {dataset.folder} have different vocabularies; "
            "build the transfer set with the teacher's tokenizer"
        )
    said = Teacher(
        teacher.fingerprint,
        teacher.task,
        teacher.labels,
        settings={"batch": stage.batch, "lengths": list(stage.lengths), "dtype": stage.dtype},
    )
    answers = _answers(make_predict(teacher, mesh, dtype=stage.dtype), dataset, stage, mesh)
    return label_dataset(folder, dataset, teacher=said, answers=answers, title=title)


def _answers(
    predict: Callable[[dict[str, jax.Array]], jax.Array],
    dataset: Dataset,
    stage: config_lib.LabelStage,
    mesh: Mesh,
) -> Answers:
    """Returns how rows are answered: in batches over the mesh, one batch ahead of its reading."""
    share, shares = row_share(mesh)

    def read(batch: dict[str, jax.Array], logits: jax.Array) -> tuple[np.ndarray, Values]:
        real = whole(batch["weight"]) > 0
        return whole(batch["row"]).astype(np.int64)[real], {"logits": np.asarray(logits)[real]}

    def answers(rows: np.ndarray) -> Iterator[tuple[np.ndarray, Values]]:
        batches = evaluation_batches(
            dataset,
            batch=stage.batch,
            lengths=stage.lengths,
            rows=rows,
            process_index=share,
            process_count=shares,
        )
        running = None
        for batch in batches:
            placed = sharding.put_batch({**batch, "row": batch["row"].astype(np.int32)}, mesh)
            following = placed, predict(placed)
            if running:
                yield read(*running)
            running = following
        if running:
            yield read(*running)

    return answers


def make_predict(
    teacher: hf.SavedModel, mesh: Mesh, *, dtype: str
) -> Callable[[dict[str, jax.Array]], jax.Array]:
    """Returns placed batch -> logits (float32, on every device), without dropout."""
    config = dataclasses.replace(teacher.config, dtype=dtype)
    model = TaskModel(config, task_outputs(teacher.task, teacher.labels))
    held = {name: teacher.params[name] for name in ("bert", "classifier")}
    at = sharding.assign(held, sharding.RULES, mesh)
    params = place(held, at)

    def forward(params: dict, batch: dict[str, jax.Array]) -> jax.Array:
        inputs = (batch["input_ids"], batch["segment_ids"], batch["input_mask"])
        logits: Any = model.apply({"params": params}, *inputs)
        return logits.astype(jnp.float32)

    step = jax.jit(
        forward,
        in_shardings=(at, sharding.batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )

    def predict(batch: dict[str, jax.Array]) -> jax.Array:
        with jax.set_mesh(mesh):
            return step(params, batch)

    return predict
