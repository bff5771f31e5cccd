"""What is refused before the first stage begins."""

import contextlib
import dataclasses
import json
import pathlib
import re
import sys
from typing import Any

import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError, MeshError, PdError, SourceError, WeightsError
from pd_jax.models import sizes
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.objectives.objective import dummy_inputs
from pd_jax.stages.context import Context
from pd_jax.stages.foreseen import check_stages
from pd_jax.stages.train import run_train
from tests import tiny

BEGUN = {"init": {"source": "TEACHER"}}
SHAPE = {"size": "L1_H8", "heads": 2, "intermediate": 8, "positions": 16}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    shape = sizes.BertConfig(64, layers=1, hidden=8, heads=2, intermediate=8, positions=16)
    params = tiny.weights(TaskModel(shape, 3).init, *dummy_inputs())["params"]
    folder = tmp_path_factory.mktemp("models") / "teacher"
    hf.save(folder, params, shape, add=tiny.tokenizer)
    return str(folder)


def rows(path: str) -> config_lib.RecordsStage:
    source = config_lib.Source(path=path, rows=500)
    return config_lib.RecordsStage(
        source=source, tokenizer="vocab.txt", examples=config_lib.Rows(), max_length=16
    )


def fault(
    teacher: str, *, label: dict | None = None, run: dict | None = None, **pupil: Any
) -> PdError | None:
    """Returns what is wrong with a chain with these changes."""
    labels = config_lib.LabelStage(
        **{"teacher": teacher, "records": "@set", "lengths": (16,), **(label or {})}
    )
    init = pupil.get("init", {})
    if init.get("source") == "TEACHER":
        pupil["init"] = {**init, "source": teacher}
    learning = tiny.stage(
        pathlib.Path("none"),
        **{
            "objective": {"kind": "distill"},
            "data": {"records": "@set", "logits": "@labels", "batch": 8, "lengths": (16,)},
            **pupil,
        },
    )
    stages = {"set": rows("a.txt"), "other": rows("b.txt"), "labels": labels, "pupil": learning}
    pipeline = config_lib.Pipeline(name="own", stages=stages, run=config_lib.Run(**(run or {})))
    return fault_of(pipeline)


def fault_of(pipeline: config_lib.Pipeline, *names: str) -> PdError | None:
    try:
        check_stages(pipeline, names or ("labels", "pupil"), on_devices=True)
    except PdError as found:
        return found
    return None


def test_a_chain_that_fits_is_not_refused(teacher: str) -> None:
    assert fault(teacher) is None
    assert fault(teacher, label={"labels": ("a", "b", "c")}) is None


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ConfigError, "did you mean 'tiny'", {"model": {"size": "tinny"}}),
        (MeshError, "does not divide by data x fsdp x mic", {"compute": {"micro_batches": 3}}),
        (MeshError, "heads do not divide", {"run": {"mesh": config_lib.Mesh(tensor=4)}}),
        (WeightsError, "source has 2 attention heads", {**BEGUN, "model": {**SHAPE, "heads": 4}}),
        (
            WeightsError,
            "has hidden=8, but this model has 32; change model.size",
            {**BEGUN, "model": {**SHAPE, "size": "L1_H32"}},
        ),
        (WeightsError, "cannot make 3 layers", {**BEGUN, "model": {**SHAPE, "size": "L3_H8"}}),
        (
            WeightsError,
            "has positions=16, but this model has 32; change model.positions",
            {**BEGUN, "model": {**SHAPE, "positions": 32}},
        ),
        (ConfigError, "can read 16 tokens", {"label": {"lengths": (32,)}}),
        (ConfigError, "has 3 outputs", {"label": {"labels": ("a", "b")}}),
        (
            ConfigError,
            "stages.pupil.data.rows=501 asks for more rows than @set reads .500, its source.rows",
            {
                "data": {
                    "records": "@set",
                    "logits": "@labels",
                    "batch": 8,
                    "lengths": (16,),
                    "rows": 501,
                }
            },
        ),
        (
            ConfigError,
            "stages.pupil.data.logits names @labels, which labels @other, not @set; name a stage",
            {"label": {"records": "@other"}},
        ),
    ],
)
def test_what_its_stage_would_refuse_hours_later_is_refused_now(
    error: type[PdError], message: str, changes: dict, teacher: str
) -> None:
    found = fault(teacher, **changes)
    assert isinstance(found, error) and re.search(message, str(found))


def test_a_source_that_fits_where_it_is_taken_from_is_not_refused(teacher: str) -> None:
    assert fault(teacher, **BEGUN, model=SHAPE) is None
    words = {"source": "TEACHER", "scope": "word_embeddings"}
    assert fault(teacher, init=words, model={"size": "L2_H8", "heads": 1}) is None


def test_rows_are_counted_where_they_are_built(tmp_path: pathlib.Path) -> None:
    made = tiny.dataset(tmp_path / "set", rows=16)
    for reference, built in ((str(made.folder), {}), ("@set", {"set": made.folder})):
        for wanted, fits in ((16, True), (17, False)):
            data = {"records": reference, "batch": 8, "lengths": (16,), "rows": wanted}
            stages = {"set": rows("a.txt"), "pupil": tiny.stage(made.folder, data=data)}
            pipeline = config_lib.Pipeline(name="own", stages=stages)
            told = re.escape(
                f"stages.pupil.data.rows=17 asks for more rows than {reference} has (16); lower it"
            )
            with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match=told):
                check_stages(pipeline, ["pupil"], on_devices=False, built=built)


def test_a_source_of_one_segment_gives_its_words_alone(tmp_path: pathlib.Path) -> None:
    shape = sizes.BertConfig(
        64, layers=1, hidden=8, heads=2, intermediate=8, positions=16, token_types=1
    )
    params = tiny.weights(TaskModel(shape, 3).init, *dummy_inputs())["params"]
    hf.save(tmp_path / "one", params, shape, add=tiny.tokenizer)
    for scope in ("model", "embeddings"):
        found = fault(
            str(tmp_path / "one"), init={"source": "TEACHER", "scope": scope}, model=SHAPE
        )
        assert isinstance(found, WeightsError)
        assert "type_vocab_size=1, but models here have 2; choose another" in str(found)
    words = {"source": "TEACHER", "scope": "word_embeddings"}
    assert fault(str(tmp_path / "one"), init=words, model=SHAPE) is None


def test_another_architecture_is_no_source_of_weights(teacher: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "distilbert"}))
    found = fault(teacher, init={"source": str(tmp_path)})
    assert isinstance(found, ConfigError) and "is no BERT with GELU" in str(found)


def test_a_column_that_is_not_there_is_told_before_the_first_stage(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.tsv").write_text("sentence\na film\n")
    built = rows(str(tmp_path / "a.tsv"))
    pipeline = config_lib.Pipeline(name="own", stages={"set": built})
    with pytest.raises(SourceError, match="has no column 'text'; its columns are 'sentence'"):
        check_stages(pipeline, ["set"], on_devices=False)


def test_a_limit_that_counts_something_else_is_told_before_the_first_stage(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "a.txt").write_text("a film\n")
    limited = config_lib.Source(path=str(tmp_path / "a.txt"), documents=3)
    built = dataclasses.replace(rows(limited.path), source=limited)
    pipeline = config_lib.Pipeline(name="own", stages={"set": built})
    with pytest.raises(SourceError, match=r"a\.txt: documents=3 .* limit it by rows"):
        check_stages(pipeline, ["set"], on_devices=False)
    excluding = dataclasses.replace(rows(limited.path), exclude=(limited,))
    pipeline = config_lib.Pipeline(name="own", stages={"set": excluding})
    with pytest.raises(ConfigError, match=r"a\.txt is limited to documents=3, which no row could"):
        check_stages(pipeline, ["set"], on_devices=False)
    # Of a corpus, either may be meant.
    corpus = dataclasses.replace(rows(limited.path), examples=config_lib.Corpus())
    first = config_lib.Source(path=limited.path, rows=1)
    corpus = dataclasses.replace(corpus, source=limited, exclude=(limited, first))
    pipeline = config_lib.Pipeline(name="own", stages={"set": corpus})
    check_stages(pipeline, ["set"], on_devices=False)


def test_an_evaluation_set_without_the_column_is_told_before_the_first_stage(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "a.txt").write_text("a film\n")
    (tmp_path / "dev.tsv").write_text("sentence\na film\n")
    apart = (config_lib.Source(path=str(tmp_path / "dev.tsv")),)
    built = dataclasses.replace(rows(str(tmp_path / "a.txt")), exclude=apart)
    pipeline = config_lib.Pipeline(name="own", stages={"set": built})
    with pytest.raises(SourceError, match=r"dev\.tsv has no column 'text'"):
        check_stages(pipeline, ["set"], on_devices=False)


def test_a_program_that_is_not_installed_is_told_before_the_first_stage(
    teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    compared = config_lib.CompareStage(
        models=({"name": "A", "model": teacher},),
        records="@set",
        lengths=(16,),
        programs=("jax", "onnx"),
    )
    pipeline = config_lib.Pipeline(name="own", stages={"set": rows("a"), "compared": compared})
    with pytest.raises(ConfigError, match="program 'onnx' needs onnxruntime; pip install"):
        check_stages(pipeline, ["compared"], on_devices=True)


def test_an_export_without_its_package_is_told_before_the_first_stage(
    teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for kind, fails in (("onnx", True), ("hf", False)):
        stages = {"made": config_lib.ExportStage(model=teacher, format=kind)}
        pipeline = config_lib.Pipeline(name="own", stages=stages)
        refused = pytest.raises(WeightsError, match="needs the onnx package; pip install")
        with refused if fails else contextlib.nullcontext():
            check_stages(pipeline, ["made"], on_devices=False)


def with_words(folder: pathlib.Path, prefix: str) -> str:
    """Returns a model's folder whose vocabulary has 59 words with this prefix."""

    def tokenizer(folder: epath.Path) -> None:
        words = (*tiny.SPECIAL, *(f"{prefix}{number}" for number in range(59)))
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")

    shape = sizes.BertConfig(64, layers=1, hidden=8, heads=2, intermediate=8, positions=16)
    params = tiny.weights(TaskModel(shape, 2).init, *dummy_inputs())["params"]
    hf.save(folder, params, shape, add=tokenizer)
    return str(folder)


def test_the_embeddings_of_another_vocabulary_are_no_first_weights(tmp_path: pathlib.Path) -> None:
    made = tiny.dataset(tmp_path / "set", rows=16)
    data = {"records": str(made.folder), "batch": 8, "lengths": (16,)}
    settings = {"objective": {"kind": "classify"}, "data": data, "model": SHAPE}
    for prefix, same in (("w", True), ("x", False)):
        source = with_words(tmp_path / prefix, prefix)
        pupil = tiny.stage(made.folder, **settings, init={"source": source})
        pipeline = config_lib.Pipeline(name="own", stages={"pupil": pupil})
        message = "another vocabulary than .*, so that its embeddings would stand for other words"
        with contextlib.nullcontext() if same else pytest.raises(ConfigError, match=message):
            check_stages(pipeline, ["pupil"], on_devices=False)
    with pytest.raises(WeightsError, match=message):  # where no pipeline foresaw it
        run_train(pupil, Context("pupil", epath.Path(tmp_path / "pupil"), config_lib.Run()))


def test_first_weights_of_a_stage_with_another_tokenizer_are_refused_at_once() -> None:
    words = {"source": config_lib.Source(path="a.txt"), "vocab_size": 64}
    stages: dict[str, Any] = {
        "first": config_lib.TokenizerStage(**words),
        "again": config_lib.TokenizerStage(**words),
        "other": config_lib.TokenizerStage(**words, algorithm="bpe"),
    }
    for name in ("first", "again", "other"):
        stages[f"{name}_rows"] = dataclasses.replace(rows("a.txt"), tokenizer=f"@{name}")
    data = {"batch": 8, "lengths": (16,)}
    none = pathlib.Path("none")
    stages["teacher"] = tiny.stage(none, data={**data, "records": "@first_rows"})
    for name, fits in (("again", True), ("other", False)):
        changes = {"data": {**data, "records": f"@{name}_rows"}, "init": {"source": "@teacher"}}
        pipeline = config_lib.Pipeline(
            name="own", stages={**stages, "pupil": tiny.stage(none, **changes)}
        )
        found = fault_of(pipeline, "pupil")
        assert (found is None) == fits, found
    assert "@teacher has another vocabulary than @other_rows" in str(found)


def test_logits_of_a_stage_that_reads_the_same_text_are_of_the_same_rows(teacher: str) -> None:
    same = dataclasses.replace(rows("a.txt"))
    labels = config_lib.LabelStage(teacher=teacher, records="@again", lengths=(16,))
    other = dataclasses.replace(labels, records="@other")
    data = {
        "records": ("@set", "@other"),
        "logits": ("@labels", "@labels", "@others", "@others"),  # two teachers of each dataset
        "batch": 8,
        "lengths": (16,),
    }
    pupil = tiny.stage(pathlib.Path("none"), objective={"kind": "distill"}, data=data)
    stages = {"set": rows("a.txt"), "again": same, "other": rows("b.txt"), "pupil": pupil}
    stages |= {"labels": labels, "others": other}
    assert fault_of(config_lib.Pipeline(name="own", stages=stages)) is None


@pytest.mark.parametrize(
    ("task", "quantity", "logits", "fits"),
    [
        ("classification", "accuracy", {}, True),
        ("classification", "matthews", {}, True),
        ("classification", "pearson", {}, False),
        ("regression", "pearson", {}, True),
        ("regression", "accuracy", {}, False),
        ("classification", "agreement", {}, False),
        ("classification", "kl", {"dev": "none"}, True),
        ("regression", "kl", {"dev": "none"}, False),
    ],
)
def test_a_study_is_judged_by_scores_that_some_cell_has(
    task: config_lib.Task, quantity: Any, logits: dict[str, str], fits: bool
) -> None:
    labels = () if task == "regression" else ("a", "b")
    labelled = config_lib.Rows(task=task, labels=labels)
    stages: dict[str, Any] = {"set": dataclasses.replace(rows("a.txt"), examples=labelled)}
    stages["pupil"] = tiny.stage(
        pathlib.Path("none"),
        objective={"kind": "classify"},
        data={"records": "@set", "batch": 8, "lengths": (16,)},
        evaluation=config_lib.Evaluation(sets={"dev": "@set"}, logits=logits),
    )
    study = config_lib.Study(
        cells=(config_lib.Cell(stage="pupil", axes={"seed": 0}),),
        measures=(config_lib.Measure(quantity=quantity, sets=("dev",)),),
    )
    found = fault_of(config_lib.Pipeline(name="own", stages=stages, study=study), "pupil")
    if fits:
        assert found is None, found
    else:
        assert f"study.measures names {quantity} of dev, but no cell's stage" in str(found)
