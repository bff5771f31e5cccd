"""Mistakes that a config, the models it names and the devices show before the first stage begins,
and that their own stages would meet hours later.
"""

from collections.abc import Iterator, Sequence

from etils import epath

from pd_jax import config as config_lib
from pd_jax.data.text import corpora, tfds
from pd_jax.errors import ConfigError
from pd_jax.evaluation.compare import check_programs
from pd_jax.models import sizes
from pd_jax.models.initialise import check_shape
from pd_jax.models.weights import hf
from pd_jax.parallel import distributed
from pd_jax.parallel.mesh import check_heads, mesh_for
from pd_jax.stages.language_teacher import check_positions
from pd_jax.stages.predict import declared_task, output_names
from pd_jax.training.step import check_batch


def check_stages(pipeline: config_lib.Pipeline, names: Sequence[str], *, on_devices: bool) -> None:
    """Raises what stages that are about to run would raise later: for a model's size, for weights
    or a teacher in a folder that do not fit, for logits of other rows, and if they run `on_devices`
    of this process, for the mesh.
    """
    with distributed.all_or_none("checking what the stages need"):
        for name in names:
            _check_stage(pipeline, name, on_devices=on_devices)


def _check_stage(pipeline: config_lib.Pipeline, name: str, *, on_devices: bool) -> None:
    stage = pipeline.stages[name]
    if isinstance(stage, config_lib.LabelStage):
        _check_teacher(stage)
    if isinstance(stage, config_lib.RecordsStage):
        _check_columns(stage)
    if isinstance(stage, config_lib.CompareStage):
        check_programs(stage.programs)
    if not isinstance(stage, config_lib.TrainStage):
        return
    shape = sizes.bert_config(stage.model, vocab_size=1)
    _check_logits(pipeline, name, stage)
    _check_rows(pipeline, name, stage)
    if stage.init.source and _is_model(stage.init.source):
        if not _is_bert(stage.init.source):
            raise ConfigError(
                f"stages.{name}.init.source={stage.init.source} is no BERT with GELU, with whose "
                "weights a student could begin; name one (others can be a label stage's teacher)"
            )
        check_shape(hf.load_config(stage.init.source), stage.init, shape)
    if on_devices:
        mesh = mesh_for(pipeline.run)
        check_batch(stage.data.batch, micro_batches=stage.compute.micro_batches, mesh=mesh)
        check_heads(shape.heads, mesh)


def _check_columns(stage: config_lib.RecordsStage) -> None:
    """Raises SourceError where the first file of a source lacks a column."""
    for source in stage.source if isinstance(stage.source, tuple) else (stage.source,):
        paths = config_lib.several(source.path)
        if not any(path.startswith(("@", tfds.PREFIX)) for path in paths):
            first = corpora.source_files(source)[:1]
            next(corpora.tables_of(corpora.Piece(source, first)), None)


def _check_teacher(stage: config_lib.LabelStage) -> None:
    if not _is_model(stage.teacher):
        return
    if stage.language is None:
        _, outputs = declared_task(epath.Path(stage.teacher))
        output_names(stage.teacher, stage.labels, outputs)
    if _is_bert(stage.teacher):
        check_positions(stage, hf.load_config(stage.teacher).positions)


def _is_bert(source: str) -> bool:
    """Returns whether a reference is a folder in Hugging Face's format with a BERT."""
    return _is_model(source) and hf.is_bert(source)


def _is_model(source: str) -> bool:
    return not source.startswith("@") and (epath.Path(source) / hf.CONFIG_FILE).exists()


def _check_rows(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    """Raises ConfigError where `data.rows` asks for more than a dataset's sources are read for."""
    wanted = stage.data.rows or 0
    for reference in config_lib.several(stage.data.records):
        built = pipeline.stages.get(reference.removeprefix("@"))
        if not isinstance(built, config_lib.RecordsStage):
            continue
        sources = built.source if isinstance(built.source, tuple) else (built.source,)
        limits = [source.rows for source in sources]
        most = sum(limit for limit in limits if limit is not None)
        if built.examples.layout == "rows" and None not in limits and most < wanted:
            raise ConfigError(
                f"stages.{name}.data.rows={wanted} asks for more rows than {reference} "
                f"reads ({most}, its source.rows); lower the one or raise the other"
            )


def _check_logits(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    """Raises ConfigError where a label stage's rows are not those that its logits are named for."""
    for key, records, logits in _named_logits(stage):
        labels = pipeline.stages.get(logits.removeprefix("@")) if logits.startswith("@") else None
        if not isinstance(labels, config_lib.LabelStage):
            continue
        of, wanted = (
            pipeline.stages.get(reference.removeprefix("@"), reference)
            for reference in (labels.records, records)
        )
        if of != wanted:
            raise ConfigError(
                f"stages.{name}.{key} names {logits}, which labels {labels.records}, not "
                f"{records}; name a stage that labels {records}"
            )


def _named_logits(stage: config_lib.TrainStage) -> Iterator[tuple[str, str, str]]:
    """Yields the key, the dataset and the store of everything that a stage reads with logits."""
    records, logits = map(config_lib.several, (stage.data.records, stage.data.logits))
    teachers = len(logits) // len(records)
    if teachers * len(records) == len(logits):
        for number, store in enumerate(logits):
            yield "data.logits", records[number // teachers], store
    sets = {**stage.evaluation.sets, **stage.evaluation.final}
    for of, stores in stage.evaluation.logits.items():
        for store in config_lib.several(stores) if of in sets else ():
            yield f"evaluation.logits.{of}", sets[of], store
