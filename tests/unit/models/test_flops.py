"""The operations of a step, against a model small enough to count on paper, and against XLA."""

import pathlib

import jax
import pytest

from pd_jax import config as config_lib
from pd_jax.models.flops import forward_flops, step_flops
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.objective import OnlineTeacher, StoredStates
from pd_jax.parallel.mesh import make_mesh
from pd_jax.stages.declared import vocabulary_of
from pd_jax.stages.objectives import Facts, make_objective
from pd_jax.training import ahead
from tests import tiny


def test_one_token_one_layer_on_paper() -> None:
    config = BertConfig(vocab_size=7, layers=1, hidden=4, heads=1, intermediate=8, positions=2)
    # Four 4x4 projections 64, MLP 4x8 twice 64, scores and mixing 4 each, token type 2x4: 144
    # products; pooler 16; each is a multiplication and an addition.
    assert forward_flops(config, rows=1, length=1) == 2 * (144 + 16)
    # A head of 3 numbers: 12 more. MLM at one position: 4x4 and 4x7, with NSP the pooler and 4x2.
    assert forward_flops(config, rows=1, length=1, outputs=3) == 2 * (160 + 12)
    assert forward_flops(config, rows=1, length=1, predictions=1) == 2 * (144 + 16 + 28)
    both = forward_flops(config, rows=1, length=1, predictions=1, next_sentence=True)
    assert both == 2 * (160 + 16 + 28 + 8)
    assert step_flops(forward_flops(config, rows=5, length=1, outputs=3)) == 3 * 5 * 2 * 172


def test_of_the_last_layer_only_what_is_read_counts_on_paper() -> None:
    config = BertConfig(vocab_size=7, layers=2, hidden=4, heads=1, intermediate=8, positions=3)
    # A token's keys and values are 32 products, all else of it 32 + 64 + 2 x 3 x 4 = 120; both
    # layers have three tokens' keys and values, and the first layer all else of them.
    shared = 6 * 32 + 3 * 120 + 3 * 8
    assert forward_flops(config, rows=1, length=3, outputs=3) == 2 * (shared + 120 + 16 + 12)
    mlm = forward_flops(config, rows=1, length=3, predictions=1)
    assert mlm == 2 * (shared + 2 * 120 + 16 + 28)
    whole = forward_flops(config, rows=1, length=3, predictions=1, whole=True)
    assert whole == 2 * (shared + 3 * 120 + 16 + 28)
    everywhere = forward_flops(config, rows=1, length=3, predictions=3)
    assert everywhere == 2 * (shared + 3 * 120 + 3 * (16 + 28))


@pytest.mark.parametrize(
    ("objective", "head"),
    [
        ({"kind": "mlm"}, {"predictions": 10}),
        ({"kind": "lm_distill", "positions": "masked"}, {"predictions": 10, "whole": True}),
        (
            {"kind": "lm_distill", "positions": "masked", "cosine_weight": 0.0},
            {"predictions": 10},
        ),
        ({"kind": "lm_distill", "positions": "all"}, {"predictions": 64}),
        ({"kind": "classify"}, {"outputs": 3}),
        ({"kind": "distill"}, {"outputs": 3}),
        ({"kind": "patient"}, {"outputs": 3}),
    ],
)
def test_every_objective_is_counted_with_its_own_head(objective: dict, head: dict) -> None:
    logits = objective["kind"] in ("distill", "patient")
    data = {"records": "none", "batch": 16, "lengths": (64,), "logits": "none" if logits else None}
    stage = tiny.stage(pathlib.Path("none"), objective=objective, data=data)
    shape = BertConfig(4000, layers=2, hidden=32, heads=2, intermediate=64)
    teacher = {
        "patient": StoredStates(4, 32, (1, 3)),
        "lm_distill": OnlineTeacher(shape, {}),
    }
    facts = Facts(
        "none",
        vocabulary_of(4000),
        "classification",
        ("a", "b", "c"),
        labelled=True,
        teacher=teacher.get(objective["kind"]),
    )
    made = make_objective(stage, shape, facts)
    forward = forward_flops(shape, rows=16, length=64, **head)
    assert made.flops(16, 64) == step_flops(forward)


@pytest.mark.parametrize("kind", ["mlm", "classify"])
def test_the_compiler_counts_the_same_within_five_percent(kind: str) -> None:
    stage = config_lib.TrainStage(
        model=config_lib.Model(size="L2_H512", dropout=0.0, attention_dropout=0.0),
        objective={"kind": kind},
        data=config_lib.Data(records="none", batch=32, lengths=(64,)),
        length=config_lib.Length(steps=10),
        optimizer=config_lib.Optimizer(learning_rate=1e-4),
    )
    shape = BertConfig(
        4000, layers=2, hidden=512, heads=8, intermediate=2048, dropout=0.0, attention_dropout=0.0
    )
    facts = Facts("none", vocabulary_of(4000), "classification", ("0", "1"), labelled=True)
    objective = make_objective(stage, shape, facts)
    made = ahead.lower(
        objective,
        stage,
        batch=ahead.batch_shapes(objective, 32, 64),
        steps=10,
        mesh=make_mesh(config_lib.Mesh(), jax.devices()[:1]),
        platform="cpu",
    )
    head = {"predictions": 10} if kind == "mlm" else {"outputs": 2}
    by_hand = step_flops(forward_flops(shape, rows=32, length=64, **head))
    assert objective.flops(32, 64) == by_hand
    assert ahead.compile_step(made).flops == pytest.approx(by_hand, rel=0.05)
