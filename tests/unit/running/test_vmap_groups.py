"""Which stages one program can train: those that differ in seed, rate and first weights alone."""

from etils import epath

from pd_jax.planning import Planned, vmap_groups
from tests import tiny


def planned(name: str, *inputs: str, fingerprint: str = "", **changes) -> Planned:
    stage = tiny.stage("@train", **changes)
    return Planned(name, stage, inputs, fingerprint or name, epath.Path(name))


def test_runs_of_one_program_differ_in_seed_rate_and_first_weights_alone():
    distilled = {"records": "@train", "batch": 16, "lengths": (16,), "logits": "@labels"}
    items = [
        planned("a"),
        planned("b", seed=1),
        planned("c", optimizer={"learning_rate": 1e-2}),
        planned("twin of a", fingerprint="a"),
        planned("decay", optimizer={"learning_rate": 1e-2, "weight_decay": 0.1}),
        planned("longer", length={"steps": 13}),
        planned("from x", "x", init={"source": "@x"}),
        planned("from y", "y", init={"source": "@y"}, seed=3),
        planned("top of y", "y", init={"source": "@y", "layers": "top"}, seed=3),
        planned("logits", data=distilled),
    ]
    assert vmap_groups(items, 8) == [("a", "b", "c"), ("from x", "from y")]
    assert vmap_groups(items, 2) == [("a", "b"), ("from x", "from y")]
    assert vmap_groups(items, 1) == []


def test_none_waits_for_another_of_its_group():
    again = planned("again", "b", init={"source": "@b"})
    items = [
        planned("a", "x", init={"source": "@x"}),
        planned("b", "x", init={"source": "@x"}, seed=1),
        again,
    ]
    assert vmap_groups(items, 8) == [("a", "b")]


def test_epochs_of_a_mixture_stay_alone():
    mixed = {"records": ("@a", "@b"), "batch": 16, "lengths": (16,), "weights": (0.5, 0.5)}
    by_epochs, by_steps = (
        [planned(f"{next(iter(length))}-{seed}", data=mixed, length=length, seed=seed)
         for seed in range(2)]
        for length in ({"epochs": 2}, {"steps": 9})
    )  # fmt: skip
    assert vmap_groups(by_epochs, 8) == []
    assert vmap_groups(by_steps, 8) == [("steps-0", "steps-1")]


def test_rows_of_several_lengths_or_packed_stay_alone():
    several = {"records": "@train", "batch": 16, "lengths": (8, 16)}
    packed = {"records": "@train", "batch": 16, "lengths": (16,), "packing": 4}
    items = [
        planned(f"{name}-{seed}", data=data, seed=seed)
        for name, data in (("several", several), ("packed", packed))
        for seed in range(2)
    ]
    assert vmap_groups(items, 8) == []
