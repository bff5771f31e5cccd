"""A teacher's logits over a dataset: computed once, stored row for row."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pd_jax import config as config_lib
from pd_jax.data.feed import evaluation_batches
from pd_jax.data.logits import LogitsManifest, LogitStore, write_logits
from pd_jax.data.records import Dataset
from pd_jax.data.tokenizers import load_tokenizer
from pd_jax.errors import WeightsError
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.objectives.classify import task_outputs
from pd_jax.parallel import distributed, sharding
from pd_jax.parallel.mesh import mesh_for, row_share
from pd_jax.progress import Progress
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
    """Writes the logit store of `stage.records` under `folder` and returns its manifest.

    Raises:
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
    predict = make_predict(teacher, mesh, dtype=stage.dtype)
    share, shares = row_share(mesh)
    logits = np.full((len(dataset), task_outputs(teacher.task, teacher.labels)), np.nan, np.float32)
    batches = evaluation_batches(
        dataset,
        batch=stage.batch,
        lengths=stage.lengths,
        process_index=share,
        process_count=shares,
    )
    with Progress(title, total=len(dataset), unit="rows") as progress:
        for batch in batches:
            placed = sharding.put_batch({**batch, "row": batch["row"].astype(np.int32)}, mesh)
            found = predict(placed)
            rows, real = whole(placed["row"]), whole(placed["weight"]) > 0
            logits[rows[real]] = np.asarray(found)[real]
            progress.advance(int(real.sum()))
    if distributed.is_writer():
        write_logits(
            folder,
            dataset,
            logits=logits,
            teacher=teacher.fingerprint,
            task=teacher.task,
            labels=teacher.labels,
        )
    distributed.barrier(f"labelled {folder}")
    return LogitStore.open(folder).manifest


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
