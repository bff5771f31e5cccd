"""A teacher's outputs over a dataset: computed once on all devices, stored shard by shard."""

import sys
from collections.abc import Callable

from etils import epath
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax.data.logits.labelling import label_dataset
from pd_jax.data.logits.store import LogitsManifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.parallel import distributed
from pd_jax.parallel.mesh import mesh_for
from pd_jax.stages.context import Context, Done
from pd_jax.stages.teachers import open_teacher


def run_label(stage: config_lib.LabelStage, context: Context) -> Done:
    """Labels a dataset with a trained model: a classifier, or a masked language model."""
    mesh = mesh_for(context.run)
    manifest = label(stage, context.output("label"), mesh, title=context.name, warn=context.warn)
    return Done(
        examples=manifest.rows,
        outputs={"rows": manifest.rows, "outputs": manifest.outputs, "teacher": manifest.teacher},
    )


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def label(
    stage: config_lib.LabelStage,
    folder: epath.Path,
    mesh: Mesh,
    *,
    title: str,
    warn: Callable[[str], None] = _warn,
) -> LogitsManifest:
    """Returns the manifest of the logit store of `stage.records` in `folder`, made if missing.

    It warns once where texts were cut by a teacher with a tokenizer of its own.

    Raises:
      LogitsError: the folder has another finished store, or the teacher's outputs are not finite.
      MeshError: the batch does not divide over the mesh, or processes see different files.
      ConfigError, WeightsError, SourceError: as `open_teacher`.
    """
    dataset = Dataset.open(stage.records)
    counts: list[int] = []
    opened = open_teacher(stage, dataset, mesh, cut=counts.append)
    reads_records, teacher, answers = opened.reads_records, opened.teacher, opened.answers
    if distributed.is_writer() and reads_records and (told := dataset.cut_at(stage.lengths[-1])):
        warn(told)
    made = label_dataset(folder, dataset, teacher=teacher, answers=answers, title=title)
    if longer := sum(counts):
        warn(
            f"{longer:,} texts are longer than {stage.teacher} reads them here, up to "
            f"{stage.lengths[-1]} of its own tokens, and were cut; raise lengths where it can read "
            "more"
        )
    return made
