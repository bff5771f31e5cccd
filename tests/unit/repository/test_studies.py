"""What studies make of their arguments, and of several teachers."""

import pytest

from configs import common
from configs.distill import lm, patient_sst2
from configs.pd import sst2
from configs.study import (
    arguments,
    comparison,
    domain,
    dropout,
    initialisation,
    labelled_rows,
    pieces,
    pretraining,
    same_data,
    sizes,
    sources,
    temperature,
    transfer_rows,
)


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


def test_a_given_rate_is_that_of_every_student():
    stages = sizes.get_config("rate=0.5,seeds=1").stages
    rates = {
        method: stages[f"sst2_{method}_L2_H128_0"].optimizer.learning_rate
        for method in ("basic", "distillation", "pf", "pd", "pd_f")
    }
    assert set(rates.values()) == {0.5}
    assert sizes.get_config("seeds=1").stages.sst2_pd_f_L2_H128_0.optimizer.learning_rate == 3e-4


def test_pre_training_and_teachers_have_rates_of_their_own():
    def rates(arg: str) -> list[float]:
        stages = sizes.get_config(f"seeds=1,{arg}").stages
        names = (
            "pretrain_L2_H128",
            "pretrain_teacher_L4_H128",
            "sst2_teacher",
            "sst2_pd_L2_H128_0",
        )
        return [stages[name].optimizer.learning_rate for name in names]

    assert rates("") == [3e-3, 1.5e-3, 1e-3, 3e-3]
    assert rates("pretrain_rate=1e-3,teacher_rate=1e-4") == [1e-3, 5e-4, 1e-4, 3e-3]
    alone = sizes.get_config("grow=,pretrain_rate=1e-3").stages
    assert alone.pretrain_teacher_L4_H128.optimizer.learning_rate == 1e-3
    other = comparison.get_config("pretrain_rate=1e-3").stages.language_L2_H128
    assert other.optimizer.learning_rate == 1e-3


def test_next_sentences_are_in_the_records_and_in_the_loss():
    stages = sizes.get_config("next_sentence").stages
    assert stages.corpus_general.examples.next_sentence
    for name in ("pretrain_L2_H128", "pretrain_teacher_L4_H128"):
        assert stages[name].objective.to_dict() == {"kind": "mlm", "next_sentence": True}


def test_a_small_transfer_set_keeps_some_rows_to_learn_from(monkeypatch):
    assert {found.held_out for found in sources.TRANSFER.values()} == {sources.HELD_OUT_ROWS}
    small = sources.TransferSet("transfer/small.txt", 10_000)
    monkeypatch.setitem(sources.TRANSFER, "small", small)
    monkeypatch.setitem(sources.TASKS, "mine", {**sources.TASKS["sst2"], "transfer": "small"})
    stages = sizes.get_config("task=mine").stages
    assert stages.mine_unseen.source.rows == 5_000
    assert stages.mine_pd_L2_H128_0.data.rows == 10_000
    assert stages.mine_small.source.rows > 15_000


def test_the_gpu_budgets_are_the_papers():
    base = "budget=gpu,size=L6_H768,teacher=L12_H768,pretrained=models/base"
    patient = patient_sst2.get_config(base).stages
    for name, rate in (("teacher", 2e-5), ("patient_skip", 2e-5), ("finetuned", 2e-5)):
        stage = patient[name].to_dict()
        assert stage["optimizer"] == {"learning_rate": rate}
        assert (stage["data"]["batch"], stage["length"]) == (32, {"epochs": 4.0})
        assert stage["data"]["lengths"][-1] == patient.train.max_length == 128
    assert "rows" not in patient.train.source
    triple = lm.get_config(base).stages.triple.to_dict()
    assert triple["optimizer"] == {
        "learning_rate": 5e-4,
        "warmup": 0.05,
        "weight_decay": 0.0,
        "beta2": 0.98,
        "clip": 5.0,
    }
    assert triple["data"]["batch"] == 8 * 50 * 5
    assert "dropout" not in triple["model"]


@pytest.mark.parametrize("budget", ["cpu", "gpu", "smoke"])
def test_given_rates_are_the_teachers_and_the_students(budget):
    arg = f"budget={budget},rate=0.5,teacher_rate=0.25"
    for config, student in ((patient_sst2, "patient_last"), (lm, "triple")):
        stages = config.get_config(arg).stages
        rates = [stages[name].optimizer.learning_rate for name in ("teacher", student)]
        assert rates == [0.25, 0.5]


def test_several_teachers_differ_by_seed_and_their_mean_is_a_cell():
    study = sizes.get_config("teachers=2,seeds=2")
    teachers = [study.stages[name] for name in ("sst2_teacher", "sst2_teacher_no1")]
    # Students have the seeds 0 and 1: with a teacher's they would begin with its classifier.
    assert [teacher.seed for teacher in teachers] == [1_000, 2_000]
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
    assert (teacher.seed, teacher.data.rows) == (2_001, 500)


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


@pytest.mark.parametrize(
    ("study", "arg"),
    [
        (transfer_rows, "rows=0"),
        (transfer_rows, "rows=1000+-5"),
        (labelled_rows, "rows=many"),
        (labelled_rows, "rows=500+"),
        (pretraining, "lengths=0+12000"),
    ],
)
def test_a_list_of_counts_has_whole_numbers_above_0(study, arg):
    with pytest.raises(ValueError, match=f"config argument {arg.replace('+', '.')}: give whole"):
        study.get_config(arg)


def test_equal_counts_are_one():
    assert transfer_rows.get_config("rows=1000+01000") == transfer_rows.get_config("rows=1000")
    assert labelled_rows.get_config("rows=500+0500") == labelled_rows.get_config("rows=500")


LONG = {
    comparison: "long,teachers=1",
    **dict.fromkeys((domain, dropout, initialisation, labelled_rows, pretraining), "long"),
    **dict.fromkeys((same_data, sizes, temperature, transfer_rows), "long"),
}


@pytest.mark.parametrize("task", sources.TASKS)
@pytest.mark.parametrize("study", LONG, ids=lambda study: study.__name__.split(".")[-1])
def test_no_study_asks_for_more_rows_than_its_transfer_set_has(study, task):
    arg = LONG[study]
    if f"task={task}" in study.__doc__ or f"|{task}" in study.__doc__:
        arg += f",task={task}"
    stages = study.get_config(arg).stages
    asked = 0
    for stage in stages.values():
        if stage.kind == "train" and "rows" in stage.data and "logits" in stage.data:
            path = stages[stage.data.records[1:]].source.path
            (found,) = (one for one in sources.TRANSFER.values() if path.endswith(one.path))
            assert stage.data.rows <= found.rows
            asked += 1
    # Two studies have the labelled rows as their transfer set.
    assert asked or study in (comparison, temperature)


def test_transfer_sets_are_compared_by_equally_many_rows():
    def rows(arg: str) -> dict[str, set]:
        stages = domain.get_config(arg).stages
        return {
            name: {
                stage.data.get("rows")
                for stage in stages.values()
                if stage.kind == "train" and stage.data.records == f"@sst2_{name}"
            }
            for name in domain.SIMILARITY
        }

    smallest = sources.TRANSFER["electronics"].rows
    assert rows("long") == dict.fromkeys(domain.SIMILARITY, {smallest})
    assert rows("") == dict.fromkeys(domain.SIMILARITY, {38_000})
    assert rows("long,smoke") == dict.fromkeys(domain.SIMILARITY, {None})
    # A student on fewer rows is not the one that other studies in the workdir have by that name.
    assert f"sst2_pd_L2_H128_{smallest}_rows_0" in domain.get_config("long").stages
    assert "sst2_pd_L2_H128_0" in domain.get_config("").stages


def test_more_transfer_rows_than_there_are_cannot_be_asked_for():
    with pytest.raises(ValueError, match="rows=60000: captions has 49000 rows to learn from"):
        transfer_rows.get_config("long,task=mnli,rows=60000")


@pytest.mark.parametrize("budget", ["cpu", "gpu", "smoke"])
def test_a_pretrained_teacher_brings_its_tokenizer(budget):
    stages = lm.get_config(f"budget={budget},pretrained=models/base,top_k=4").stages
    assert "vocabulary" not in stages
    texts = [stages[name] for name in ("corpus", "held_out", "part")]
    assert {stage.tokenizer for stage in texts} == {"models/base"}
