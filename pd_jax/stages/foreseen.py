"""Checks before the first stage begins: of what a config, the models and datasets that it names and
the devices already show to be wrong, and what would otherwise end a stage hours later.
"""

import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence

from etils import epath

from pd_jax import config as config_lib
from pd_jax.config.scores import BEST_BY, SCORES
from pd_jax.data.building import plans
from pd_jax.data.records import manifest
from pd_jax.data.text import corpora, tfds
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.errors import ConfigError
from pd_jax.evaluation.compare import check_programs
from pd_jax.models import sizes
from pd_jax.models.export import onnx_graph
from pd_jax.models.initialise import check_init
from pd_jax.models.weights import hf
from pd_jax.parallel import distributed
from pd_jax.parallel.mesh import check_heads, mesh_for
from pd_jax.stages import torch_teacher
from pd_jax.stages.classifier import (
    check_positions,
    declared_task,
    load_classifier,
    output_names,
)
from pd_jax.stages.declared import (
    first_of,
    labels_of,
    learnt,
    model_folder,
    rows_of,
    store_task,
    tokenizer_of,
)
from pd_jax.stages.material import check_set, check_tasks
from pd_jax.stages.objectives import check_temperature
from pd_jax.stages.teachers import check_reads_texts
from pd_jax.training.step import check_batch


def check_stages(
    pipeline: config_lib.Pipeline,
    names: Sequence[str],
    *,
    on_devices: bool,
    built: Mapping[str, epath.Path] = types.MappingProxyType({}),
) -> None:
    """Raises what stages that are about to run would raise later: for a model's size, for weights
    or a teacher in a folder that do not fit, for logits of other rows, for too few rows, and if
    they run `on_devices` of this process, for the mesh. `built` has the outputs of finished stages.
    """
    # A study has many stages with one vocabulary, and one teacher.
    load, load_teacher = functools.cache(load_tokenizer), functools.cache(_try_teacher)
    with distributed.all_or_none("checking what the stages need"):
        for name in names:
            _check_stage(pipeline, name, load_teacher, on_devices=on_devices)
            _check_rows(pipeline, name, built)
            _check_vocabulary(pipeline, name, load)
        if pipeline.study is not None:
            _check_measures(pipeline, pipeline.study)


def _try_teacher(folder: str) -> None:
    """Raises what reading a classifier raises, and keeps nothing of it."""
    load_classifier(folder)


def _check_stage(
    pipeline: config_lib.Pipeline,
    name: str,
    load_teacher: Callable[[str], object],
    *,
    on_devices: bool,
) -> None:
    stage = pipeline.stages[name]
    if isinstance(stage, config_lib.LabelStage):
        _check_teacher(stage, load_teacher)
    if isinstance(
        stage, config_lib.RecordsStage | config_lib.TokenizerStage | config_lib.LabelStage
    ):
        _check_sources(stage)
    if isinstance(stage, config_lib.CompareStage):
        check_programs(stage.programs)
    if isinstance(stage, config_lib.ExportStage) and stage.format == "onnx":
        if distributed.is_writer():  # which alone exports
            onnx_graph.require_onnx()
    if not isinstance(stage, config_lib.TrainStage):
        return
    shape = sizes.bert_config(stage.model, vocab_size=1)
    _check_logits(pipeline, name, stage)
    if stage.init.source and model_folder(stage.init.source):
        if not _is_bert(stage.init.source):
            raise ConfigError(
                f"stages.{name}.init.source={stage.init.source} is no BERT with GELU, with whose "
                "weights a student could begin; name one (others can be a label stage's teacher)"
            )
        check_init(hf.load_config(stage.init.source), stage.init, shape)
    teacher = getattr(stage.objective, "teacher", None)
    if teacher and _is_bert(teacher):
        positions = hf.load_config(teacher).positions
        check_positions(f"objective.teacher={teacher}", positions, stage.data.lengths[-1])
    if on_devices:
        mesh = mesh_for(pipeline.run)
        check_batch(stage.data.batch, micro_batches=stage.compute.micro_batches, mesh=mesh)
        check_heads(shape.heads, mesh)


def check_labels(pipeline: config_lib.Pipeline, name: str) -> None:
    """Raises ConfigError where a stage learns from rows of several tasks, would be scored on a set
    of another, or learns from a teacher whose outputs have other names than the labels of its rows
    or of a set: now, rather than after everything was labelled.
    """
    stage = pipeline.stages[name]
    if not isinstance(stage, config_lib.TrainStage):
        return
    _check_sets(pipeline, name, stage)
    _check_best(pipeline, name, stage)
    if not isinstance(stage.objective, config_lib.Masked):
        _check_tasks(pipeline, name, stage)
    if isinstance(stage.objective, config_lib.Distill):
        check_temperature(stage.objective, learnt(pipeline, stage)[0])
    if not stage.data.logits:
        return
    own = labels_of(pipeline, first_of(stage.data.records))
    _, outputs = store_task(pipeline, stage)
    remedy = (
        "name the outputs, in the teacher's order, with labels=(...) in the label stage, or list "
        "these names in examples.labels"
    )
    if own and outputs and sorted(own) != sorted(outputs):
        raise ConfigError(
            f"stages.{name}: the rows of data.records have labels {', '.join(own)}, but their "
            f"teacher's outputs are called {', '.join(outputs)}; {remedy}"
        )
    names = own or outputs
    for of, reference in {**stage.evaluation.sets, **stage.evaluation.final}.items():
        scored = labels_of(pipeline, reference)
        if names and scored and scored != names:
            if sorted(scored) == sorted(names):
                remedy = "list them in this order in examples.labels of the set"
            raise ConfigError(
                f"stages.{name}: evaluation set {of} has labels {', '.join(scored)}, but the "
                f"student learns {', '.join(names)}, in this order; {remedy}"
            )


def _check_sets(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    task, _ = learnt(pipeline, stage)
    for of, reference in {**stage.evaluation.sets, **stage.evaluation.final}.items():
        if (rows := rows_of(pipeline, reference)) is not None:
            check_set(
                f"stages.{name}: evaluation set {of}",
                stage.objective,
                task=task,
                of_set=rows.task,
                paired=rows.next_sentence,
            )


def _check_best(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    """Raises ConfigError where `best` names a score that its set will not have."""
    if stage.evaluation.best is None:
        return
    of, _, score = stage.evaluation.best.partition("/")
    possible = [name for name in _scores(pipeline, stage, of) if name in BEST_BY]
    if score not in possible:
        raise ConfigError(
            f"stages.{name}.evaluation.best={stage.evaluation.best!r}, but objective.kind="
            f"{stage.objective.kind!r} is scored there on {', '.join(possible) or 'nothing'}; name "
            "another score or set"
        )


def _check_measures(pipeline: config_lib.Pipeline, study: config_lib.Study) -> None:
    """Raises ConfigError where no cell's stage will have a score that the study judges by."""
    trained = [pipeline.stages[cell.stage] for cell in study.cells]
    for measure in study.measures:
        for of in measure.sets:
            possible = {
                score
                for stage in trained
                if isinstance(stage, config_lib.TrainStage)
                and of in {**stage.evaluation.sets, **stage.evaluation.final}
                for score in _scores(pipeline, stage, of)
            }
            if measure.quantity not in possible:
                raise ConfigError(
                    f"study.measures names {measure.quantity} of {of}, but no cell's stage is "
                    f"scored by it there: only by {', '.join(sorted(possible)) or 'its loss'}; "
                    "measure another quantity, or give the set what it needs (agreement and kl: "
                    "evaluation.logits)"
                )


def _scores(
    pipeline: config_lib.Pipeline, stage: config_lib.TrainStage, of: str
) -> tuple[str, ...]:
    """Returns the scores that an evaluation set may have."""
    sets = {**stage.evaluation.sets, **stage.evaluation.final}
    kind, rows = stage.objective, rows_of(pipeline, sets[of])
    if isinstance(kind, config_lib.MaskedLanguageModel):
        return ("mlm_accuracy", "nsp_accuracy") if kind.next_sentence else ("mlm_accuracy",)
    taught = of in stage.evaluation.logits or (
        isinstance(kind, config_lib.OnlineDistillation) and kind.teacher is not None
    )
    if isinstance(kind, config_lib.LanguageDistill):
        return ("mlm_accuracy", "agreement", "kl") if taught else ("mlm_accuracy",)
    task, labels = learnt(pipeline, stage)
    unlabelled = rows is not None and rows.task is None
    return tuple(
        name
        for name, score in SCORES.items()
        if score.tasks
        and (task is None or task in score.tasks)
        and (taught or not score.taught)
        and not (unlabelled and (score.of_teacher or not score.taught))
        and not (score.two_classes and len(labels) not in (0, 2))
    )


def _check_tasks(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    tasks = [("the teacher of data.logits", store_task(pipeline, stage)[0])]
    for reference in config_lib.several(stage.data.records):
        if (rows := rows_of(pipeline, reference)) is not None:
            tasks.append((reference, rows.task))
    check_tasks(f"stages.{name}.data.records", tasks)


def _check_sources(
    stage: config_lib.RecordsStage | config_lib.TokenizerStage | config_lib.LabelStage,
) -> None:
    """Raises SourceError where the first row or document of a source cannot be read, for example
    for want of a column, or its limit counts something else.
    """
    as_rows = isinstance(stage, config_lib.LabelStage)
    as_rows |= isinstance(stage, config_lib.RecordsStage) and stage.examples.layout == "rows"
    read = [(source, as_rows) for source in config_lib.several(stage.source)]
    if isinstance(stage, config_lib.RecordsStage):
        plans.check(stage)
        read += [(source, source.documents is None) for source in stage.exclude]
    for source, as_rows in read:
        paths = config_lib.several(source.path)
        if not any(path.startswith(("@", tfds.PREFIX)) for path in paths):
            found = corpora.source_files(source)
            corpora.check_limit(source, found, as_rows=as_rows)
            first = corpora.Piece(source, found[:1])
            next(corpora.rows(first) if as_rows else corpora.documents(first), None)


def _check_teacher(stage: config_lib.LabelStage, load: Callable[[str], object]) -> None:
    """Raises what labelling would raise at its start: for a folder that is not a whole teacher."""
    if model_folder(stage.teacher) is None:
        return
    if stage.language is None:
        _, outputs = declared_task(epath.Path(stage.teacher))
        output_names(stage.teacher, stage.labels, outputs)
    if stage.language is None and not _is_bert(stage.teacher):
        torch_teacher.require_torch(stage.teacher)
        check_reads_texts(stage.teacher)
        return
    positions = hf.load_config(stage.teacher).positions
    check_positions(stage.teacher, positions, stage.lengths[-1])
    if stage.language is None:
        load(stage.teacher)


def _is_bert(source: str) -> bool:
    """Returns whether a reference is a folder in Hugging Face's format with a BERT."""
    return model_folder(source) is not None and hf.is_bert(source)


def _check_rows(pipeline: config_lib.Pipeline, name: str, built: Mapping[str, epath.Path]) -> None:
    """Raises ConfigError where `data.rows` asks for more than a dataset has, or will have."""
    stage = pipeline.stages[name]
    if not isinstance(stage, config_lib.TrainStage) or stage.data.rows is None:
        return
    wanted = stage.data.rows
    for reference in config_lib.several(stage.data.records):
        found = config_lib.referred(reference)
        folder = built.get(found.stage) if found else epath.Path(reference)
        if folder is not None and (folder / manifest.FILE).exists():
            if (rows := manifest.read(folder).rows) < wanted:
                raise ConfigError(
                    f"stages.{name}.data.rows={wanted} asks for more rows than {reference} has "
                    f"({rows}); lower it or leave it out"
                )
            continue
        most = _most_rows(pipeline.stage_of(reference))
        if most is not None and most < wanted:
            raise ConfigError(
                f"stages.{name}.data.rows={wanted} asks for more rows than {reference} "
                f"reads ({most}, its source.rows); lower the one or raise the other"
            )


def _most_rows(stage: object) -> int | None:
    """Returns the rows to which a stage's sources are limited; None without such a limit."""
    if not isinstance(stage, config_lib.RecordsStage) or stage.examples.layout != "rows":
        return None
    limits = [source.rows for source in config_lib.several(stage.source)]
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None


def _check_vocabulary(
    pipeline: config_lib.Pipeline, name: str, load: Callable[[str], Tokenizer]
) -> None:
    """Raises ConfigError where a model would begin with the embeddings of another vocabulary."""
    stage = pipeline.stages[name]
    if not isinstance(stage, config_lib.TrainStage) or stage.init.source is None:
        return
    source, records = stage.init.source, first_of(stage.data.records)
    both = [tokenizer_of(pipeline, reference, load) for reference in (source, records)]
    to_come = [isinstance(one, config_lib.TokenizerStage) for one in both]
    if None in both or any(to_come) != all(to_come):
        return  # known only once the stage begins
    theirs, ours = (getattr(one, "pieces", one) for one in both)
    if theirs != ours:
        raise ConfigError(
            f"stages.{name}.init.source={source} has another vocabulary than {records}, so that "
            "its embeddings would stand for other words; build the records with its tokenizer"
        )


def _check_logits(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    """Raises ConfigError where a label stage's rows are not those that its logits are named for."""
    for key, records, logits in _named_logits(stage):
        labels = pipeline.stage_of(logits)
        if not isinstance(labels, config_lib.LabelStage):
            continue
        of, wanted = (
            pipeline.stage_of(reference) or reference for reference in (labels.records, records)
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
