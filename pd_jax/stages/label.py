"""A teacher's outputs over a dataset: computed once on all devices, stored shard by shard."""

from etils import epath
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax.data.logits.labelling import label_dataset
from pd_jax.data.logits.store import LogitsManifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.parallel.mesh import mesh_for
from pd_jax.stages.context import Context, Done
from pd_jax.stages.teachers import open_teacher


def run_label(stage: config_lib.LabelStage, context: Context) -> Done:
    """Labels a dataset with a trained model: a classifier, or a masked language model."""
    mesh = mesh_for(context.run)
    manifest = label(stage, context.output("label"), mesh, title=context.name)
    return Done(
        examples=manifest.rows,
        outputs={"rows": manifest.rows, "outputs": manifest.outputs, "teacher": manifest.teacher},
    )


def label(
    stage: config_lib.LabelStage, folder: epath.Path, mesh: Mesh, *, title: str
) -> LogitsManifest:
    """Returns the manifest of the logit store of `stage.records` in `folder`, made if missing.

    Raises:
      LogitsError: the folder has another finished store, or the teacher's outputs are not finite.
      MeshError: the batch does not divide over the mesh, or processes see different files.
      ConfigError, WeightsError, SourceError: as `open_teacher`.
    """
    dataset = Dataset.open(stage.records)
    teacher, answers = open_teacher(stage, dataset, mesh)
    return label_dataset(folder, dataset, teacher=teacher, answers=answers, title=title)
