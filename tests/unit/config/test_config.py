"""What a config file may say, and what it is told when it says something else."""

import pytest

from pd_jax import config as config_lib
from pd_jax import planning
from pd_jax.config import reading
from pd_jax.errors import ConfigError


def train(**changes):
    stage = {
        "kind": "train",
        "objective": {"kind": "mlm"},
        "data": {"records": "@corpus", "batch": 8, "lengths": (16,)},
        "length": {"steps": 10},
        "optimizer": {"learning_rate": 1e-3},
    }
    return {**stage, **changes}


def pipeline(**stages):
    return {"name": "p", "stages": stages}


def refused(**stages) -> str:
    with pytest.raises(ConfigError) as fault:
        reading.pipeline_from(pipeline(**stages))
    return str(fault.value)


def test_a_key_in_the_wrong_place_is_named_with_those_that_have_it():
    message = refused(pretrain=train(objective={"kind": "mlm", "micro_batches": 2}))
    assert message == (
        "config.stages.pretrain.objective.micro_batches is not a known key here; it is one of "
        "Compute"
    )


def test_weights_below_0_and_figures_over_no_axis_are_refused():
    message = refused(pretrain=train(data={**train()["data"], "weights": (-1.0,)}))
    assert "weights must be 0 or more, and at least one above 0" in message
    cells = ({"stage": "a", "axes": {"size": "Tiny", "seed": 0}},)
    measures = ({"quantity": "accuracy", "sets": ("dev",)},)
    for axes in ({"x": "layers"}, {"x": "size", "panels": "hidden"}):
        config_lib.Study(cells=cells, measures=measures, figures=({"title": "F", **axes},))
    for axes in ({"x": "sizes"}, {"x": "size", "panels": "sizes"}):
        with pytest.raises(ValueError, match="'F' names the axis 'sizes', .*did you mean 'size'"):
            config_lib.Study(cells=cells, measures=measures, figures=({"title": "F", **axes},))


def test_a_key_of_another_place_that_looks_like_one_of_this_is_named_with_both():
    source = {"path": "train.tsv", "labels": "label"}
    rows = {"kind": "records", "tokenizer": "vocab.txt", "examples": {"layout": "rows"}}
    message = refused(rows={**rows, "source": source, "max_length": 16})
    assert message == (
        "config.stages.rows.source.labels is not a known key here; did you mean 'label'? It is one "
        "of Compared, LabelStage, Rows"
    )


def test_a_misspelt_key_is_named_with_its_path_and_the_nearest_one():
    message = refused(pretrain=train(objective={"kind": "mlm", "mask_ratee": 0.2}))
    assert message == (
        "config.stages.pretrain.objective.mask_ratee is not a known key; did you mean 'mask_rate'?"
    )


def test_a_stage_that_is_called_like_a_kind_keeps_its_name():
    source = {"path": "a.txt"}
    rows = {"kind": "records", "source": source, "tokenizer": "vocab.txt"}
    corpus = {**rows, "examples": {"layout": "corpus", "max_lenght": 8}}
    message = refused(corpus=corpus, records={**rows, "records": 1}, train=train(seed="x"))
    assert [line.split()[0] for line in message.splitlines()] == [
        "config.stages.corpus.examples.max_lenght",
        "config.stages.records.examples",
        "config.stages.records.records",
        "config.stages.train.seed:",
    ]
    distill = train(objective={"kind": "distill", "temperature": -1.0})
    message = refused(distill=distill, label=train(length={}), compare={"kind": "compare"})
    assert "config.stages.distill.objective.temperature: " in message
    assert "config.stages.label.length: give exactly one" in message
    assert "config.stages.compare.models is missing" in message
    assert "did you mean 'label'" not in message


def test_every_fault_gets_a_line():
    message = refused(
        a=train(length={"steps": 1, "epochs": 2}), b=train(optimizer={"learning_rate": -1.0})
    )
    assert "config.stages.a.length: give exactly one of steps, examples, epochs" in message
    assert "config.stages.b.optimizer.learning_rate" in message
    assert len(message.splitlines()) == 2


def test_missing_and_unknown_kinds():
    stage = train()
    del stage["optimizer"]
    assert "config.stages.a.optimizer is missing" in refused(a=stage)
    assert "'label'" in refused(a={"kind": "labell"})


def test_rules_between_fields():
    assert "best='dev/accuracy' must begin with" in refused(
        a=train(evaluation={"best": "dev/accuracy", "every": {"steps": 2}})
    )
    for best, message in (
        ("dev/acuracy", "did you mean 'accuracy'?"),
        ("dev/loss", "a score of which more is better"),
    ):
        scored = {"sets": {"dev": "@c"}, "best": best, "every": {"steps": 2}}
        assert message in refused(a=train(evaluation=scored))
    twice = {"task": "classification", "labels": ("no", "yes", "no")}
    rows = {"kind": "records", "source": {"path": "a.tsv", "label": "y"}, "tokenizer": "vocab.txt"}
    assert "names one twice" in refused(a={**rows, "examples": {"layout": "rows", **twice}})
    for lengths in ((64, 32), (32, 32), ()):
        data = {"records": "@c", "lengths": lengths}
        assert "lengths must rise" in refused(a=train(data={**data, "batch": 8}))
        assert "lengths must rise" in refused(a={"kind": "label", "teacher": "@t", **data})
        named = ({"name": "t", "model": "@t"},)
        assert "lengths must rise" in refused(a={"kind": "compare", "models": named, **data})
    assert "set init.source" in refused(a=train(init={"layers": "bottom"}))


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("model", "dropout"),
        ("model", "attention_dropout"),
        ("optimizer", "beta1"),
        ("optimizer", "beta2"),
    ],
)
def test_what_is_divided_by_its_difference_from_one_is_below_it(part, key):
    for value in (1.0, 1.5, -0.1):
        given = {"learning_rate": 1e-3} if part == "optimizer" else {}
        message = refused(a=train(**{part: {**given, key: value}}))
        assert message.startswith(f"config.stages.a.{part}.{key}: Input should be ")
    assert config_lib.Model(dropout=0.0).dropout == 0.0


def test_what_is_no_config_is_refused():
    with pytest.raises(ConfigError, match="get_config returns NoneType, .*; return a ConfigDict"):
        reading.pipeline_from(None)  # type: ignore[arg-type]


def test_lengths_in_steps():
    assert config_lib.Length(steps=7).in_steps(rows=100, batch=8) == 7
    assert config_lib.Length(examples=100).in_steps(rows=1, batch=8) == 13
    assert config_lib.Length(epochs=2.5).in_steps(rows=100, batch=8) == 32
    assert config_lib.Length(epochs=0.001).in_steps(rows=100, batch=8) == 1


def test_references_are_found_and_replaced_wherever_they_stand():
    stage = reading.pipeline_from(
        pipeline(
            a=train(
                init={"source": "@teacher"},
                data={"records": ("@one", "plain"), "batch": 8, "lengths": (16,)},
                evaluation={
                    "sets": {"dev": "@dev"},
                    "final": {"test": "@text/test.tsv"},
                    "logits": {"dev": ("@first", "@second"), "test": "@third"},
                },
            )
        )
    ).stages["a"]
    data, sets = ["@teacher", "@one", "plain"], ["@dev", "@text/test.tsv"]
    assert reading.references(stage) == [*data, *sets, "@first", "@second", "@third"]
    upper = reading.map_references(stage, lambda reference, _: reference.upper())
    assert upper.data.records == ("@ONE", "PLAIN")
    assert upper.evaluation.final == {"test": "@TEXT/TEST.TSV"}
    assert upper.evaluation.logits == {"dev": ("@FIRST", "@SECOND"), "test": "@THIRD"}
    assert upper.objective == stage.objective


def test_json_and_back_is_the_same_value():
    first = reading.pipeline_from(pipeline(a=train()))
    assert reading.pipeline_from(reading.to_json(first)) == first


def test_a_set_without_a_store_among_those_with_logits_is_refused():
    evaluation = {"sets": {"dev": "@dev"}, "logits": {"dev": ()}}
    with pytest.raises(ConfigError, match="logits names no store for dev; leave the set out"):
        reading.pipeline_from(pipeline(a=train(evaluation=evaluation)))


def test_stores_without_the_same_states_are_refused_before_anything_is_trained():
    def stages(held=(0,), seen=(0,), **objective):
        label = {"kind": "label", "teacher": "teacher", "lengths": (16,)}
        evaluation = {"sets": {"dev": "dev"}, "logits": {"dev": "@seen"}}
        student = {
            "kind": "train",
            "model": {"size": "L2_H32"},
            "objective": {"kind": "patient", **objective},
            "data": {"records": "rows", "logits": "@held", "batch": 8, "lengths": (16,)},
            "length": {"steps": 1},
            "optimizer": {"learning_rate": 1e-3},
            "evaluation": evaluation,
        }
        labels = {
            "held": {**label, "records": "rows", "states": held},
            "seen": {**label, "records": "dev", "states": seen},
        }
        return reading.pipeline_from({"name": "p", "stages": {**labels, "student": student}})

    assert set(stages().stages) == {"held", "seen", "student"}
    message = (
        r"config: stages.student learns .*@held: \[0\], @seen: \[\]\); give these label stages"
    )
    with pytest.raises(ConfigError, match=message):
        stages(seen=())
    with pytest.raises(ConfigError, match=r"@held: \[\], @seen: \[\]"):
        stages(held=(), seen=())
    assert stages(held=(), seen=(), teacher="teacher")  # which reads every batch itself


def test_labels_of_the_reports_rows_are_unique():
    report = {"rows": (("PD", "a"), ("PF", "b"), ("PD", "b"))}
    message = "config.report: rows has a label twice: PD; give each row one of its own"
    with pytest.raises(ConfigError, match=message):
        reading.pipeline_from({**pipeline(a=train(), b=train()), "report": report})


def test_a_study_measures_sets_that_its_cells_are_scored_on():
    def read(*sets, quantity="accuracy"):
        study = {
            "cells": ({"stage": "a", "axes": {"seed": 0}}, {"stage": "b", "axes": {"seed": 1}}),
            "measures": ({"quantity": quantity, "sets": sets},),
        }
        scored = train(evaluation={"sets": {"dev": "@dev"}, "final": {"test": "@test"}})
        return reading.pipeline_from({**pipeline(a=train(), b=scored), "study": study})

    assert read("dev", "test").study
    with pytest.raises(ConfigError, match=r"names the set 'tset', .* did you mean 'test'\?"):
        read("dev", "tset")
    with pytest.raises(ConfigError, match="sets must name one evaluation set or more"):
        read()
    with pytest.raises(ConfigError, match="f1 is not a mean over rows; name one set, not dev,"):
        read("dev", "test", quantity="f1")


def test_metrics_to_report_are_of_sets_that_some_stage_is_scored_on():
    def read(*metrics):
        stage = train(evaluation={"sets": {"dev": "@dev"}, "final": {"test": "@test"}})
        return reading.pipeline_from({**pipeline(a=stage), "report": {"metrics": metrics}})

    assert read("train/loss", "dev/accuracy", "test/kl", "dev/distill_loss", "dev/patience").report
    message = "names 'dve/kl', but no training stage has 'dve' in .* did you mean 'dev/kl'?"
    with pytest.raises(ConfigError, match=message):
        read("dev/accuracy", "dve/kl")
    message = "names 'dev/acuracy', but no .* has 'acuracy'; .* did you mean 'accuracy'?"
    with pytest.raises(ConfigError, match=message):
        read("dev/acuracy")


def test_a_number_where_text_belongs_is_shown_as_text():
    rows = {"layout": "rows", "task": "classification", "labels": (0, 1)}
    stage = {"kind": "records", "source": {"path": "a.tsv"}, "tokenizer": "v", "examples": rows}
    first, second = refused(rows={**stage, "max_length": 16}).splitlines()
    assert first.startswith("config.stages.rows.examples.labels.0: ")
    assert first.endswith("(got 0; write '0')") and second.endswith("(got 1; write '1')")


def test_two_cells_at_one_place_of_mixed_kinds_are_named():
    axes = ({"rows": 5, "seed": 0}, {"rows": "all", "seed": 0})
    cells = tuple({"stage": "a", "axes": place} for place in axes * 2)
    measures = ({"quantity": "accuracy", "sets": ("dev",)},)
    with pytest.raises(ConfigError, match="two cells are at {'rows': 5, 'seed': 0}"):
        reading.pipeline_from(
            {**pipeline(a=train()), "study": {"cells": cells, "measures": measures}}
        )


def test_a_url_is_refused_wherever_a_path_may_stand():
    for url in ("https://host/x.txt", "s3://bucket/x"):
        assert refused(a=train(init={"source": url})).startswith(
            f"config.stages.a.init.source: {url} cannot be opened; copy it to a disk or to a gs://"
        )
        with pytest.raises(ConfigError, match=f"^--workdir: {url} cannot"):
            reading.check_scheme(url, "--workdir")
    with pytest.raises(ConfigError, match="^--workdir: gs:/bucket/x is half a URL; write its"):
        reading.check_scheme("gs:/bucket/x", "--workdir")
    for path in ("gs://b/x", "@text/train.tsv", "/a:/b", "tfds:glue/sst2", "tfds:/data/own:train"):
        reading.check_scheme(path, "--workdir")


def test_a_path_that_only_a_shell_understands_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert refused(a=train(init={"source": "~/models/mini"})) == (
        "config.stages.a.init.source: ~/models/mini begins with ~, which stays as it is here; "
        "write /home/me/models/mini"
    )
    rows = {"layout": "rows"}
    built = {"kind": "records", "source": {"path": ("a.tsv", "~/b.tsv")}, "tokenizer": "v"}
    message = refused(rows={**built, "examples": rows})
    assert message.startswith("config.stages.rows.source.path: ~/b.tsv begins with ~, ")
    with pytest.raises(ConfigError, match=r"^--workdir: ~ begins with ~, .*write /home/me$"):
        reading.check_scheme("~", "--workdir")
    for path in ("a~/b", "./~", "~no-such-user-here/a", "@a/~", "tfds:~/data:train"):
        reading.check_scheme(path, "--workdir")


def test_what_a_stage_could_not_do_is_refused():
    export = {"kind": "export", "model": "@a", "format": "hf", "int8": True}
    assert "int8 works with format='onnx' only, not with 'hf'; leave" in refused(x=export)
    rows = {"layout": "rows", "labels": ("no", "yes")}
    built = {"kind": "records", "source": {"path": "a"}, "tokenizer": "v", "examples": rows}
    assert "labels=('no', 'yes') needs a task, 'classification' or" in refused(x=built)


def test_seeds_and_seconds_beyond_what_is_told_apart_are_refused():
    for seed in (-1, 2**32):
        assert refused(a=train(seed=seed)).startswith("config.stages.a.seed: Input should be ")
        corpus = {"kind": "records", "source": {"path": "a"}, "tokenizer": "v"}
        message = refused(a={**corpus, "examples": {"layout": "corpus", "seed": seed}})
        assert message.startswith("config.stages.a.examples.seed: Input should be ")
    with pytest.raises(ConfigError, match="config.run.watchdog_seconds: Input should be less than"):
        reading.pipeline_from({**pipeline(a=train()), "run": {"watchdog_seconds": 1e10}})
    assert reading.pipeline_from(pipeline(a=train(seed=2**32 - 1)))


@pytest.mark.parametrize("name", ["a/t", "..", "", "@x", "x" * 61, "x[1]", "\ud800", "-x", "x\n"])
def test_what_cannot_name_a_file_is_no_name(name):
    remedy = "is not a name for a file; begin it with a letter or digit, "
    assert refused(**{name: train()}).startswith(f"config: the stage {name!r} {remedy}")
    message = refused(a=train(evaluation={"sets": {name: "@dev"}}))
    assert message.startswith(f"config.stages.a.evaluation: the evaluation set {name!r} {remedy}")
    with pytest.raises(ConfigError, match="config: the pipeline .* is not a name for a file"):
        reading.pipeline_from({**pipeline(a=train()), "name": name})
    named = pipeline(**{"Vortraining 2.b_ü=1": train(), "x" * 60: train(seed=1)})
    assert len(reading.pipeline_from(named).stages) == 2


def test_a_reference_to_a_stage_of_the_wrong_kind_is_refused():
    rows = {"kind": "records", "source": {"path": "@text/a.tsv"}, "examples": {"layout": "rows"}}
    data = {"records": "@rows", "batch": 8, "lengths": (16,)}
    label = {"kind": "label", "teacher": "@pd", "records": "@rows", "lengths": (16,)}
    stages = {
        "text": {"kind": "synthetic"},
        "words": {"kind": "tokenizer", "source": {"path": ("@text/a.tsv", "b.txt")}},
        "rows": {**rows, "tokenizer": "@words"},
        "labels": label,
        "pd": train(data=data, init={"source": "models/base"}),
        "export": {"kind": "export", "model": "@pd"},
        "again": {**rows, "tokenizer": "@rows/tokenizer"},
    }

    def pupil(**changes) -> dict:
        return train(**{"data": data, **changes})

    def check(**changes) -> None:
        planning.check_kinds(reading.pipeline_from(pipeline(**{**stages, **changes})).stages)

    check(own=train(data={**data, "logits": "@labels"}, init={"source": "@export"}))
    evaluation = {"sets": {"dev": "@rows"}}
    for stage, message in (
        (
            train(data={**data, "records": ("@rows", "@pd")}),
            "data.records names @pd, .* train; .* ",
        ),
        (train(data={**data, "logits": "@rows"}), "data.logits names @rows, .* records; .* label"),
        (pupil(init={"source": "@rows"}), "init.source names @rows, .*; name one of kind train or"),
        (pupil(evaluation={"sets": {"dev": "@text/a.tsv"}}), "evaluation.sets names @text/a.tsv"),
        (pupil(evaluation={**evaluation, "logits": {"dev": "@pd"}}), "evaluation.logits names @pd"),
        ({**rows, "tokenizer": "@rows"}, "tokenizer names @rows, .* name one of kind tokenizer or"),
        ({**stages["words"], "source": {"path": "@rows"}}, "source.path names @rows"),
        ({**label, "teacher": "@words"}, "teacher names @words"),
    ):
        with pytest.raises(ConfigError, match=rf"^stages\.own\.{message}"):
            check(own=stage)


def test_a_temperature_that_changes_nothing_is_refused():
    message = "temperature=2.0 changes nothing of loss='mse', which compares logits; leave it out"
    assert message in refused(
        a=train(objective={"kind": "distill", "loss": "mse", "temperature": 2.0})
    )
