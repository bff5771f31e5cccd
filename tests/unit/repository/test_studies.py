"""What studies make of their arguments, and of several teachers."""

import pytest

from configs import common
from configs.pd import sst2
from configs.study import arguments, comparison, labelled_rows, pieces, sizes


def test_long_changes_what_is_not_named_and_smoke_makes_it_small():
    plain, long, both = (
        arguments.read(arg, seeds=3, size="mini")
        for arg in ("", "long,distill=77", "smoke,long,finetune=5")
    )
    assert (plain["distill"], plain["teachers"], plain["vocabulary"]) == (300, 1, 4_096)
    assert (long["distill"], long["teachers"], long["vocabulary"]) == (77, 4, 16_384)
    assert (both["distill"], both["teachers"], both["finetune"]) == (2, 4, 5)
    spaced = arguments.read("long, distill=77, vocabulary=5", vocabulary=1)
    assert (spaced["distill"], spaced["vocabulary"], spaced["teachers"]) == (77, 5, 4)
    assert (plain["size"], long["size"], both["size"]) == ("L4_H256", "L4_H256", "L2_H32")
    with pytest.raises(ValueError, match="config argument 'lnog' is unknown"):
        arguments.read("lnog")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("smoke", True), ("smoke=On", True), ("smoke=1", True), ("smoke=no", False), ("", False)],
)
def test_truths_have_many_spellings(written, meant):
    assert common.parse(written, smoke=False)["smoke"] is meant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("long=ture", "config argument long='ture': give true or false"),
        ("smoke=", "config argument smoke='': give true or false"),
        ("seeds=two", "config argument seeds='two': give a whole number"),
        ("rate=1e-3x", "config argument rate='1e-3x': give a number"),
        ("seeds=0", "config argument seeds=0: give 1 or more"),
        ("teachers=-1", "config argument teachers=-1: give 1 or more"),
    ],
)
def test_a_value_that_is_none_is_named_with_its_key(written, message):
    with pytest.raises(ValueError, match=message):
        arguments.read(written, seeds=3)


def test_rates_are_those_of_the_steps():
    short, long = (pieces.Setting("s", arguments.read(arg)) for arg in ("", "long"))
    assert (short.rate("PF"), long.rate("PF")) == (3e-3, 1e-3)
    assert (short.rate("distillation"), long.rate("distillation")) == (3e-3, 1e-3)
    mixed = pieces.Setting("s", arguments.read("finetune=2000"))
    assert (mixed.rate("PF"), mixed.rate("distillation")) == (1e-3, 3e-3)
    assert short.rate("basic") == long.rate("basic") == 1e-3
    assert pieces.Setting("s", arguments.read("long,rate=0.5")).rate("PF") == 0.5


def test_several_teachers_differ_by_seed_and_their_mean_is_a_cell():
    study = sizes.get_config("teachers=2,seeds=2")
    teachers = [study.stages[name] for name in ("sst2_teacher", "sst2_teacher_no1")]
    assert [teacher.seed for teacher in teachers] == [0, 1_000]
    assert teachers[0].init == teachers[1].init
    student = study.stages["sst2_pd_L2_H128_1"]
    assert student.data.logits == (
        "@labels_sst2_imdb_by_sst2_teacher",
        "@labels_sst2_imdb_by_sst2_teacher_no1",
    )
    assert set(student.evaluation.logits) == {"dev", "test", "unseen"}
    assert all(len(named) == 2 for named in student.evaluation.logits.values())
    means = [cell for cell in study.study.cells if cell["axes"]["method"] == "mean of teachers"]
    assert [(cell["stage"], cell["of"]) for cell in means] == [("sst2_basic_L2_H128_0", "teacher")]
    assert [cell["axes"]["method"] for cell in study.study.cells[:3]] == [
        "teacher",
        "teacher",
        "mean of teachers",
    ]


def test_each_number_of_labels_and_seed_has_teachers_of_its_own():
    study = labelled_rows.get_config("teachers=2,rows=500+2000,seeds=2")
    means = {
        (cell["axes"]["labelled rows"], cell["axes"]["seed"]): cell["stage"]
        for cell in study.study.cells
        if cell["axes"]["method"] == "mean of teachers"
    }
    assert means == {
        (rows, seed): f"sst2_basic_L2_H128_{rows}_labelled_{seed}"
        for rows in (500, 2000)
        for seed in (0, 1)
    }
    teacher = study.stages["sst2_teacher_500_1_no1"]
    assert (teacher.seed, teacher.data.rows) == (1_001, 500)


def test_a_single_chain_may_have_several_teachers():
    chain = sst2.get_config("teachers=2")
    assert len(chain.stages["sst2_pd_L2_H128_0"].data.logits) == 2


def test_one_teacher_has_no_mean_and_says_nothing_of_labelled_sets():
    study = sizes.get_config("seeds=1")
    assert {cell["axes"]["method"] for cell in study.study.cells} == {"teacher", *pieces.METHODS}
    evaluation = study.stages["sst2_pd_L2_H128_0"].evaluation.to_dict()
    assert evaluation["logits"] == {"unseen": "@labels_sst2_unseen_by_sst2_teacher"}
    with pytest.raises(ValueError, match="teachers=4: patient distillation follows the layers"):
        comparison.get_config("long")
