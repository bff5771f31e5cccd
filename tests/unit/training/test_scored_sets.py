"""Evaluation sets that a stage cannot be scored on are refused before it trains."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax.data.records import manifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import Record, example_id, finish, write_shard
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError
from pd_jax.stages.context import Context
from pd_jax.stages.foreseen import check_labels
from pd_jax.stages.material import open_material, open_sets, with_teacher
from pd_jax.stages.train import run_train
from tests import tiny

ROWS = {
    "classification": config_lib.Rows(task="classification", labels=tiny.LABELS),
    "multilabel": config_lib.Rows(task="multilabel", labels=tiny.LABELS),
    "regression": config_lib.Rows(task="regression"),
    "none": config_lib.Rows(),
    "pairs": config_lib.Corpus(next_sentence=True),
    "plain": config_lib.Corpus(),
}
PAIRED = {"kind": "mlm", "next_sentence": True}
OF_TWO_CLASSES = "accuracy, macro_f1, f1, matthews"
LABEL = {"classification": 1, "multilabel": (0, 1), "regression": 0.5}

REFUSED = [
    ({"kind": "classify"}, "classification", "regression", "is labelled for regression, and the"),
    ({"kind": "classify"}, "classification", "multilabel", "examples.task='classification'"),
    ({"kind": "classify"}, "regression", "classification", "the stage learns regression"),
    (PAIRED, "pairs", "plain", "has no sentence pairs, .* examples.next_sentence=True"),
    (PAIRED, "pairs", "classification", "has no sentence pairs"),
]
TAKEN = [
    ({"kind": "classify"}, "classification", "classification"),
    ({"kind": "classify"}, "classification", "none"),
    ({"kind": "mlm"}, "none", "regression"),
    ({"kind": "mlm"}, "pairs", "plain"),
    (PAIRED, "pairs", "pairs"),
]


def dataset(folder, kind: str) -> str:
    """Returns the folder of a dataset of one row."""
    made = load_tokenizer(tiny.tokenizer(folder / kind / "tokenizer"))
    examples, ids = ROWS[kind], np.array([2, 7, 3], np.int32)
    pair = 1 if kind == "pairs" else None
    row = Record(ids, None, example_id(kind), label=LABEL.get(kind), next_sentence=pair)
    shard = write_shard(folder / kind, kind, index=0, of=1, records=[row])
    task = {"task": examples.task, "labels": examples.labels} if kind in LABEL else {}
    finish(folder / kind, [shard], name=kind, tokenizer=made, max_length=16, **task)
    assert manifest.read(folder / kind).holds("next_sentence_labels") == (kind == "pairs")
    return str(Dataset.open(folder / kind).folder)


def stage_of(folder, objective, learnt, scored) -> config_lib.TrainStage:
    return tiny.stage(
        folder,
        objective=objective,
        data={"records": learnt, "batch": 8, "lengths": (16,)},
        evaluation={"sets": {"dev": scored}},
    )


def open_all(stage: config_lib.TrainStage) -> None:
    material = with_teacher(open_material(stage.data), stage)
    open_sets(stage.evaluation.sets, {}, material, stage.data)


def check_declared(folder, objective, learnt: str, scored: str) -> None:
    check_stage(stage_of(folder, objective, f"@{learnt}", f"@{scored}"))


def check_stage(stage: config_lib.TrainStage) -> None:
    stages = {
        kind: config_lib.RecordsStage(
            source=config_lib.Source(path="none.tsv"), tokenizer="none.json", examples=examples
        )
        for kind, examples in ROWS.items()
    }
    stages["own"] = stage
    check_labels(config_lib.Pipeline(name="p", stages=stages), "own")


@pytest.mark.parametrize(("objective", "learnt", "scored", "message"), REFUSED)
def test_a_set_of_another_task_or_without_pairs_is_refused(
    tmp_path, objective, learnt, scored, message
):
    folders = [dataset(tmp_path, kind) for kind in (learnt, scored)]
    with pytest.raises(ConfigError, match=f"^evaluation set dev .*{message}"):
        open_all(stage_of(tmp_path, objective, *folders))
    with pytest.raises(ConfigError, match=rf"^stages\.own: evaluation set dev .*{message}"):
        check_declared(tmp_path, objective, learnt, scored)


@pytest.mark.parametrize(("objective", "learnt", "scored"), TAKEN)
def test_what_can_be_scored_is_taken(tmp_path, objective, learnt, scored):
    folders = [dataset(tmp_path, kind) for kind in dict.fromkeys((learnt, scored))]
    open_all(stage_of(tmp_path, objective, folders[0], folders[-1]))
    check_declared(tmp_path, objective, learnt, scored)


@pytest.mark.parametrize(
    ("others", "kind"), [("regression", "classify"), ("multilabel", "patient")]
)
def test_rows_of_different_tasks_are_not_learnt_as_one(tmp_path, others, kind):
    def stage(*records: str) -> config_lib.TrainStage:
        data = {"records": records, "batch": 8, "lengths": (16,)}
        return tiny.stage(tmp_path, objective=objective, data=data)

    objective = {"kind": kind, **({"teacher": "none"} if kind == "patient" else {})}
    folders = [dataset(tmp_path, name) for name in ("classification", others)]
    message = f"is for the task {others}, but .* for classification, and a stage learns one"
    opened = stage(*folders)
    with pytest.raises(ConfigError, match=rf"^data\.records: \S+/{others} {message}"):
        with_teacher(open_material(opened.data), opened)
    with pytest.raises(ConfigError, match=rf"^stages\.own\.data\.records: @{others} {message}"):
        check_stage(stage("@none", "@classification", f"@{others}"))
    objective = {"kind": "mlm"}
    check_stage(stage("@classification", f"@{others}"))


@pytest.mark.parametrize(
    ("objective", "learnt", "best", "possible"),
    [
        ({"kind": "mlm"}, "plain", "dev/accuracy", "mlm_accuracy"),
        (PAIRED, "pairs", "dev/accuracy", "mlm_accuracy, nsp_accuracy"),
        ({"kind": "classify"}, "regression", "dev/accuracy", "pearson, spearman"),
        ({"kind": "classify"}, "multilabel", "dev/f1", "accuracy, label_accuracy, macro_f1"),
        ({"kind": "classify"}, "classification", "dev/agreement", OF_TWO_CLASSES),
        ({"kind": "mlm"}, "plain", "dev/mlm_accuracy", ""),
        (PAIRED, "pairs", "dev/nsp_accuracy", ""),
        ({"kind": "classify"}, "regression", "dev/spearman", ""),
        ({"kind": "classify"}, "classification", "dev/matthews", ""),
    ],
)
def test_best_is_a_score_that_its_set_will_have(tmp_path, objective, learnt, best, possible):
    stage = stage_of(tmp_path, objective, f"@{learnt}", f"@{learnt}")
    evaluation = {"sets": stage.evaluation.sets, "best": best, "every": {"steps": 1}}
    stage = dataclasses.replace(stage, evaluation=config_lib.Evaluation(**evaluation))
    if not possible:
        return check_stage(stage)
    message = rf"^stages\.own\.evaluation\.best='{best}', .* on {possible}; name another score"
    with pytest.raises(ConfigError, match=message):
        check_stage(stage)


def test_rows_longer_than_the_last_length_are_told(tmp_path, capsys):
    data = tiny.dataset(tmp_path / "set", rows=16)
    stage = tiny.stage(
        data.folder,
        data={"records": str(data.folder), "batch": 8, "lengths": (8,)},
        length={"steps": 1},
    )
    run_train(stage, Context("student", epath.Path(tmp_path / "stage"), tiny.run_options()))
    told = capsys.readouterr().err
    longer = int((data.lengths > 8).sum())
    share = (data.lengths - data.lengths.clip(max=8)).sum() / data.lengths.sum()
    assert f"warning: stage student: {longer} rows of {data.folder} are longer than 8" in told
    assert f"cut there, {share:.1%} of all tokens" in told


def test_rows_of_an_evaluation_set_that_are_also_learnt_from_are_told(tmp_path, capsys):
    learnt = tiny.dataset(tmp_path / "learnt", rows=64)
    same = tiny.dataset(tmp_path / "same", rows=40, shards=1)  # half of it: the first shard's rows
    other = tiny.dataset(tmp_path / "other", rows=40, seed=1)
    sets = {"same": str(same.folder), "other": str(other.folder), "itself": str(learnt.folder)}
    stage = tiny.stage(learnt.folder, evaluation={"sets": sets}, length={"steps": 1})
    folder = epath.Path(tmp_path / "stage")
    folder.mkdir()
    run_train(stage, Context("student", folder, tiny.run_options()))
    told = [line for line in capsys.readouterr().err.splitlines() if "also in data.records" in line]
    assert len(told) == 1
    assert "stage student: 32 of 40 rows of evaluation set same are also in data.records" in told[0]
