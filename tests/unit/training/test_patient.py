"""Patient distillation: numbers by hand, and a stored teacher that equals one at hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models import sizes
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.objectives.objective import OnlineTeacher, StoredStates, dummy_inputs
from pd_jax.objectives.patient import choose_teacher_layers, make_patient, patience_rows
from pd_jax.parallel.mesh import make_mesh
from pd_jax.report import notation
from pd_jax.stages.context import Context
from pd_jax.stages.foreseen import check_stages
from pd_jax.stages.label import label
from pd_jax.stages.material import open_material, open_sets, with_teacher
from pd_jax.stages.train import run_train
from tests import tiny

SHAPE = sizes.BertConfig(
    64, layers=4, hidden=32, heads=2, intermediate=64, positions=16, dropout=0.0
)


def test_patience_by_hand():
    # (3, 4) is (0.6, 0.8) at length one, (2, 0) is (1, 0): squares 0.16 + 0.64, mean 0.4. The
    # second layers are equal: the row's mean over two layers is 0.2.
    student = jnp.asarray([[[3.0, 4.0], [0.0, 5.0]]])
    teacher = jnp.asarray([[[2.0, 0.0], [0.0, 1.0]]])
    assert patience_rows(student, teacher, normalise=True)[0] == pytest.approx(0.2)
    # As they are: (1 + 16 + 0 + 16) / 4.
    assert patience_rows(student, teacher, normalise=False)[0] == pytest.approx(8.25)
    gradient = jax.grad(lambda states: patience_rows(states, teacher, normalise=True)[0])
    assert np.isfinite(gradient(jnp.zeros((1, 2, 2)))).all()


def test_layers_are_those_of_the_paper():
    assert choose_teacher_layers("skip", 12, 6) == (1, 3, 5, 7, 9)
    assert choose_teacher_layers("last", 12, 6) == (6, 7, 8, 9, 10)
    assert choose_teacher_layers("skip", 12, 3) == (3, 7)
    assert choose_teacher_layers("last", 12, 3) == (9, 10)
    assert choose_teacher_layers((0, 2), 4, 3) == (0, 2)
    for choice, deep, shallow, message in (
        ("skip", 12, 5, "cannot spread 5 layers over 12"),
        ("last", 2, 4, "a student of 4 layers cannot follow a teacher of 2"),
        ((1,), 12, 6, "must name 5 layers of the teacher, each from 0 to 11"),
        ((1, 12), 12, 3, "must name 2 layers"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_teacher_layers(choice, deep, shallow)


def patient(**changes):
    teacher = changes.pop("teacher", StoredStates(4, 32, (0, 1, 2)))
    return make_patient(
        config_lib.Patient(**{"hard_weight": 0.0, **changes}),
        SHAPE,
        task="classification",
        labels=("a", "b"),
        has_labels=False,
        teacher=teacher,
    )


def test_a_student_like_its_teacher_has_nothing_to_learn_but_its_entropy():
    params = tiny.weights(TaskModel(SHAPE, 2).init, *dummy_inputs())["params"]
    objective = patient(teacher=OnlineTeacher(SHAPE, params, (0, 1)), temperature=2.0)
    ids = jax.random.randint(jax.random.key(1), (5, 8), 5, 64)
    batch = {"input_ids": ids, "segment_ids": ids * 0, "input_mask": ids * 0 + 1}
    batch = jax.jit(objective.teach)(objective.frozen, {**batch, "weight": jnp.ones(5)})

    def loss(params):
        found = objective.sums(params, batch, None)
        return sum(found[name][0] for name in objective.terms), found

    grads, sums = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert sums["patience"][0] == pytest.approx(0.0, abs=1e-6)
    assert sums["kl"][0] == pytest.approx(0.0, abs=1e-5)
    assert sums["agreement"] == (5.0, 5.0)
    assert dict(objective.terms) == {"distill_loss": 1.0, "patience": 100.0}
    assert all(map(notation.lower_is_better, objective.terms))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) < 1e-4


def test_teachers_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="32 hidden units, but the teacher has 16"):
        patient(teacher=StoredStates(4, 16, (0, 1, 2)))
    with pytest.raises(ConfigError, match=r"has states of layers \(0, 1\), but \(2,\) are need"):
        patient(teacher=StoredStates(4, 32, (0, 1)))
    with pytest.raises(ConfigError, match="hard_weight=0.5 needs labels"):
        patient(hard_weight=0.5)


def test_stores_with_other_states_are_refused_by_name(tmp_path):
    params = tiny.weights(TaskModel(SHAPE, 2).init, *dummy_inputs(), seed=5)["params"]
    named = {"labels": tiny.LABELS, "task": "classification", "add": tiny.tokenizer}
    hf.save(tmp_path / "teacher", params, SHAPE, **named)
    mesh = make_mesh(config_lib.Mesh())
    for name, layers in (("first", (0, 1)), ("other", (1, 2)), ("none", ())):
        tiny.dataset(tmp_path / name, rows=16, seed=len(name))
        labelling = config_lib.LabelStage(
            teacher=str(tmp_path / "teacher"),
            records=str(tmp_path / name),
            batch=8,
            lengths=(16,),
            states=layers,
        )
        label(
            labelling,
            epath.Path(tmp_path / f"{name}-store"),
            mesh,
            title="labelling",
            warn=pytest.fail,
        )

    def opened(*names: str, evaluated: str = "first"):
        data = config_lib.Data(
            records=tuple(str(tmp_path / name) for name in names),
            logits=tuple(str(tmp_path / f"{name}-store") for name in names),
            batch=8,
            lengths=(16,),
        )
        stage = tiny.stage(tmp_path, objective={"kind": "patient"}, data=data)
        material = with_teacher(open_material(data), stage)
        stores = {"dev": str(tmp_path / f"{evaluated}-store")}
        open_sets({"dev": str(tmp_path / evaluated)}, stores, material, data)
        return material.teacher

    assert opened("first") == StoredStates(4, 32, (0, 1))
    first = r"but .*first-store has states of 32 numbers after layers \[0, 1\] of 4; give both"
    with pytest.raises(ConfigError, match=f"data.logits: .*none-store has no states, {first}"):
        opened("first", "none")
    second = r"other-store has states of 32 numbers after layers \[1, 2\] of 4"
    with pytest.raises(ConfigError, match=f"data.logits: .*{second}, {first}"):
        opened("first", "other")
    with pytest.raises(ConfigError, match=f"evaluation.logits.dev: .*{second}, {first}"):
        opened("first", evaluated="other")


@pytest.mark.parametrize("labelled", [True, False])
def test_a_teacher_without_a_task_is_taken_as_transformers_takes_it(tmp_path, labelled):
    tiny.dataset(tmp_path / "set", rows=8, labelled=labelled)
    params = tiny.weights(TaskModel(SHAPE, 2).init, *dummy_inputs(), seed=5)["params"]
    for name, labels in (("named", tiny.LABELS[::-1]), ("unnamed", ())):
        hf.save(tmp_path / name, params, SHAPE, labels=labels, add=tiny.tokenizer)
    data = config_lib.Data(records=str(tmp_path / "set"), batch=8, lengths=(16,))

    def opened(name: str):
        objective = {"kind": "patient", "teacher": str(tmp_path / name)}
        return with_teacher(
            open_material(data), tiny.stage(tmp_path, objective=objective, data=data)
        )

    found = opened("named")
    assert found.task == "classification"
    assert found.teacher.columns == ((1, 0) if labelled else (0, 1))
    if labelled:
        with pytest.raises(ConfigError, match="labels .'LABEL_0', .*or correct problem_type and"):
            opened("unnamed")
    else:
        assert opened("unnamed").labels == ("LABEL_0", "LABEL_1")


def test_a_teacher_of_one_segment_reads_no_pairs(tmp_path):
    dataset = tiny.text_dataset(tmp_path / "pairs", [("w1 w2", "w3"), ("w4", "w5 w6")], shards=1)
    shape = dataclasses.replace(SHAPE, token_types=1)
    params = tiny.weights(TaskModel(shape, 2).init, *dummy_inputs(), seed=5)["params"]
    hf.save(tmp_path / "teacher", params, shape, labels=tiny.LABELS, add=tiny.tokenizer)
    data = config_lib.Data(records=str(dataset.folder), batch=2, lengths=(16,))
    objective = {"kind": "patient", "teacher": str(tmp_path / "teacher")}
    stage = tiny.stage(tmp_path, objective=objective, data=data)
    with pytest.raises(ConfigError, match="objective.teacher=.*teacher has type_vocab_size=1, so"):
        with_teacher(open_material(data), stage)


def test_a_teacher_that_cannot_read_rows_so_long_is_refused(tmp_path):
    tiny.dataset(tmp_path / "set", rows=8)
    shape = dataclasses.replace(SHAPE, positions=8)
    params = tiny.weights(TaskModel(shape, 2).init, *dummy_inputs(), seed=5)["params"]
    hf.save(tmp_path / "teacher", params, shape, labels=tiny.LABELS, add=tiny.tokenizer)
    data = config_lib.Data(records=str(tmp_path / "set"), batch=8, lengths=(16,))
    objective = {"kind": "patient", "teacher": str(tmp_path / "teacher")}
    stage = tiny.stage(tmp_path, objective=objective, data=data)
    refused = "objective.teacher=.*teacher can read 8 tokens, but rows are cut at 16"
    with pytest.raises(ConfigError, match=refused):
        with_teacher(open_material(data), stage)
    pipeline = config_lib.Pipeline(name="p", stages={"patient": stage})
    with pytest.raises(ConfigError, match=refused):
        check_stages(pipeline, ["patient"], on_devices=False)


def test_states_from_a_store_and_from_a_teacher_at_hand_give_the_same_student(tmp_path, capsys):
    tiny.dataset(tmp_path / "set", rows=32)
    params = tiny.weights(TaskModel(SHAPE, 2).init, *dummy_inputs(), seed=5)["params"]
    named = {"labels": tiny.LABELS[::-1], "task": "classification", "add": tiny.tokenizer}
    hf.save(tmp_path / "teacher", params, SHAPE, **named)
    labelling = config_lib.LabelStage(
        teacher=str(tmp_path / "teacher"),
        records=str(tmp_path / "set"),
        batch=8,
        lengths=(16,),
        states=(0, 1, 3),
    )
    mesh = make_mesh(config_lib.Mesh())
    label(labelling, epath.Path(tmp_path / "store"), mesh, title="labelling", warn=pytest.fail)
    data = {"records": str(tmp_path / "set"), "batch": 16, "lengths": (16,)}
    ways = {
        "stored": ({}, {**data, "logits": str(tmp_path / "store")}),
        "at hand": ({"teacher": str(tmp_path / "teacher")}, data),
    }
    found = {}
    for name, (objective, read) in ways.items():
        stage = tiny.stage(
            tmp_path / "set",
            model={"size": "L2_H32", "heads": 2, "positions": 16},
            objective={"kind": "patient", **objective},
            data=read,
            length={"steps": 4},
            evaluation={"sets": {"dev": str(tmp_path / "set")}},
        )
        folder = epath.Path(tmp_path / name)
        folder.mkdir()
        if name == "at hand":
            stated = tmp_path / "teacher" / "tokenizer_config.json"
            stated.write_text('{"model_max_length": 6}')
        done = run_train(stage, Context(name, folder, tiny.run_options()))
        told = capsys.readouterr().err.count("teacher states model_max_length=6, and rows of up to")
        assert told == (name == "at hand")
        found[name] = done.metrics, jax.tree.leaves(hf.load(folder / "model").params)
    (metrics, stored), (others, at_hand) = found.values()
    assert metrics["train/patience"] == pytest.approx(others["train/patience"], rel=1e-4)
    assert metrics["train/patience"] > 0.01
    assert {"train/kl", "train/agreement", "train/confidence"} <= metrics.keys()
    assert {"dev/kl", "dev/agreement"} <= others.keys() - metrics.keys()
    for one, other in zip(stored, at_hand, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
