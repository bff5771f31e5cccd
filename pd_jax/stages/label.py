"""A teacher's outputs over a dataset: computed once on all devices, stored shard by shard."""

from collections.abc import Callable, Iterator, Sequence

from etils import epath
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax.data.logits.labelling import label_dataset
from pd_jax.data.logits.store import LogitsManifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.models.weights import hf
from pd_jax.parallel import distributed
from pd_jax.parallel.mesh import mesh_for
from pd_jax.stages.classifier import Read, beyond_training
from pd_jax.stages.context import Context, Done
from pd_jax.stages.teachers import open_teacher

_MUCH_UNKNOWN = 0.01
"""The share of tokens from which it is said that a tokenizer does not know them."""


def run_label(stage: config_lib.LabelStage, context: Context) -> Done:
    """Labels a dataset with a trained model: a classifier, or a masked language model."""
    mesh = mesh_for(context.run)
    manifest = label(stage, context.output("label"), mesh, title=context.name, warn=context.warn)
    return Done(
        examples=manifest.rows,
        outputs={"rows": manifest.rows, "outputs": manifest.outputs, "teacher": manifest.teacher},
    )


def label(
    stage: config_lib.LabelStage,
    folder: epath.Path,
    mesh: Mesh,
    *,
    title: str,
    warn: Callable[[str], None],
) -> LogitsManifest:
    """Returns the manifest of the logit store of `stage.records` in `folder`, made if missing.

    It warns once where rows are longer than those that a teacher was trained on, and where one with
    a tokenizer of its own cut texts, or did not know them.

    Raises:
      LogitsError: the folder has another finished store, or the teacher's outputs are not finite.
      MeshError: the batch does not divide over the mesh, or processes see different files.
      ConfigError, WeightsError, SourceError: as `open_teacher`.
    """
    dataset = Dataset.open(stage.records)
    reads: list[Read] = []
    opened = open_teacher(stage, dataset, mesh, told=reads.append)
    reads_records, teacher, answers = opened.reads_records, opened.teacher, opened.answers
    if distributed.is_writer() and reads_records and (told := dataset.cut_at(stage.lengths[-1])):
        warn(told)
    if distributed.is_writer() and reads_records:
        longest = min(stage.lengths[-1], int(dataset.lengths.max(initial=0)))
        if told := beyond_training(stage.teacher, longest):
            warn(told)
    made = label_dataset(folder, dataset, teacher=teacher, answers=answers, title=title)
    if distributed.is_writer() and reads:
        for told in _doubts(stage, reads):
            warn(told)
    return made


def _doubts(stage: config_lib.LabelStage, reads: Sequence[Read]) -> Iterator[str]:
    """Yields what to know of the texts that a teacher with a tokenizer of its own has read."""
    longest = max(read.longest for read in reads)
    if hf.is_bert(stage.teacher) and (told := beyond_training(stage.teacher, longest)):
        yield told
    if longer := sum(read.cut for read in reads):
        yield (
            f"{longer:,} texts are longer than {stage.teacher} reads them here, up to "
            f"{stage.lengths[-1]} of its own tokens, and were cut; raise lengths where it can read "
            "more"
        )
    unknown, tokens = sum(read.unknown for read in reads), sum(read.tokens for read in reads)
    if unknown > _MUCH_UNKNOWN * tokens:
        yield (
            f"{unknown / tokens:.1%} of the tokens that {stage.teacher} read are [UNK]: its "
            "tokenizer was made for other text, or saved without its vocabulary"
        )
