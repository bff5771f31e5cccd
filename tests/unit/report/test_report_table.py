import json
import pathlib
from typing import Any

import pytest

from pd_jax.errors import ConfigError
from pd_jax.report import load, notation, read_report, table
from pd_jax.tools import command
from pd_jax.tools import report as tool


def make(workdir: Any) -> table.Table:
    return table.make_table(load.load_pipeline(workdir.root, workdir.name))


def test_seconds_with_inputs_count_every_needed_stage_once(workdir: Any) -> None:
    rows = {row.label: row for row in make(workdir).rows}
    assert rows["basic"].seconds == 9
    assert rows["basic"].chain_seconds == pytest.approx(9 + 0.6 + 1.4 + 2.2)
    # text, vocabulary, corpus, labelled, transfer, pretrain, teacher, logits, pd
    pd = 1.4 + 2.2 + 3.1 + 0.6 + 1.9 + 131 + 44 + 6.5 + 27
    assert rows["PD"].chain_seconds == pytest.approx(pd)
    assert rows["PD-F"].chain_seconds == pytest.approx(pd + 9.2)


def test_a_method_does_not_pay_for_what_it_is_scored_against(workdir: Any) -> None:
    before = {row.label: row.chain_seconds for row in make(workdir).rows}
    workdir.plain("dev_labels", "label", 1000.0, ("teacher", "labelled"))
    workdir.write({row.label: row.stage for row in make(workdir).rows})
    assert {row.label: row.chain_seconds for row in make(workdir).rows} == before


def test_a_folder_that_another_pipeline_made_has_the_inputs_of_this_one(workdir: Any) -> None:
    path = workdir.root / "pipelines" / f"{workdir.name}.json"
    content = json.loads(path.read_text())
    whole = {row.label: row.chain_seconds for row in make(workdir).rows}
    made = {
        name: json.loads((workdir.folder(name) / "config.json").read_text())
        for name in workdir.stages
    }
    # The same folders, where this pipeline calls the pre-training otherwise.
    renamed = json.loads(json.dumps(made).replace('"@pretrain"', '"@base"'))
    stages = {**content["stages"], "base": content["stages"]["pretrain"]}
    content |= {"stages": stages, "config": {"stages": {**renamed, "base": made["pretrain"]}}}
    del content["stages"]["pretrain"]
    path.write_text(json.dumps(content))
    assert {row.label: row.chain_seconds for row in make(workdir).rows} == pytest.approx(whole)


@pytest.mark.parametrize("config", [{"stages": []}, {"stages": {"pd": "x"}}, {}])
def test_where_the_record_has_no_config_of_a_stage_its_folder_has_it(
    workdir: Any, config: dict
) -> None:
    path = workdir.root / "pipelines" / f"{workdir.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": config}))
    assert load.load_pipeline(workdir.root, workdir.name).stages["pd"].kind == "train"


def test_rows_carry_sizes_and_intervals(workdir: Any) -> None:
    row = make(workdir).rows[3]
    assert (row.label, row.size, row.parameters, row.steps) == ("PD", "L2_H128", 4_386_178, 900)
    assert row.metrics == pytest.approx({"test/accuracy": 0.899, "dev/accuracy": 0.907})
    assert row.intervals["test/accuracy"].count == 1821
    assert row.intervals["dev/accuracy"].count == 872


def test_text_is_aligned(workdir: Any) -> None:
    text = read_report(workdir.root, workdir.name).as_text()
    title, blank, header, rule, *lines = text.splitlines()
    assert title == "Five ways to train a small model"
    assert blank == ""
    assert header.split()[:4] == ["method", "model", "parameters", "MB"]
    assert len(lines) == 6
    assert {len(line) for line in (header, rule, *lines)} == {len(rule)}
    for name, place in (("parameters", "4,386,178"), ("test accuracy %", "89.9")):
        assert header.index(name) + len(name) == lines[3].index(place) + len(place)


def test_text_of_wide_letters_and_control_characters_is_aligned(empty: Any) -> None:
    for name, label in (("a", "蒸留"), ("b", "\x1b[2Jevil"), ("c", "plain")):
        empty.train(
            name, objective="classify", needs=("x",), final=0.8, loss=(1, 0.5), steps=3, seconds=1
        )
        empty.stages[label] = empty.stages.pop(name)
        empty.status[label] = "done"
    empty.write({label: label for label in empty.stages})
    lines = read_report(empty.root, empty.name).as_text().splitlines()[4:7]
    assert "\x1b" not in "".join(lines)
    # Each of the two wide letters takes two columns of a terminal.
    assert [line.index("L2_H128") for line in lines] == [8 + 2 - 2, 8 + 2, 8 + 2]


def test_thousands_stand_apart_in_a_terminal() -> None:
    assert table.aligned([["rows"], [notation.grouped(38_000)]], names=0) == [
        "  rows",
        "------",
        "38 000",
    ]


def test_a_failed_row_keeps_its_place_and_says_why(workdir: Any) -> None:
    (workdir.folder("pd") / "done.json").unlink()
    workdir.status["pd"] = "failed"
    workdir.write({"PF": "pf", "PD": "pd"})
    found = make(workdir)
    text = table.as_text(found)
    line = next(line for line in text.splitlines() if line.startswith("PD"))
    assert line.split()[2:] == ["-", "-", "failed", "failed", "-", "-"]
    assert "PD (failed): It ended without a result" in text
    assert found.rows[1].metrics == {}
    assert found.best("dev/accuracy") == found.rows[0].metrics["dev/accuracy"]


def test_a_metric_that_is_missing_or_not_finite_is_said(workdir: Any) -> None:
    path = workdir.folder("pd") / "done.json"
    done = json.loads(path.read_text())
    done["metrics"]["test/accuracy"] = None
    del done["metrics"]["dev/accuracy"]
    path.write_text(json.dumps(done))
    found = make(workdir)
    row = next(row for row in found.rows if row.label == "PD")
    assert row.note == "It has no finite test/accuracy and no finite dev/accuracy."
    assert "missing" in table.as_text(found)
    assert json.loads(json.dumps(table.as_json(found), allow_nan=False))["rows"][3]["metrics"] == {
        "test/accuracy": None,
        "dev/accuracy": None,
    }


@pytest.mark.parametrize("quantity", ["agreement", "kl", "teacher_calibration_error"])
def test_who_is_held_against_no_teacher_lacks_nothing(workdir: Any, quantity: str) -> None:
    path = workdir.folder("pd") / "done.json"
    done = json.loads(path.read_text())
    done["metrics"][f"dev/{quantity}"] = None
    path.write_text(json.dumps(done))
    workdir.write({"Basic": "basic", "PD": "pd"}, metrics=("dev/accuracy", f"dev/{quantity}"))
    basic, student = make(workdir).rows
    assert not basic.note
    assert basic.absence(f"dev/{quantity}") == "\N{EN DASH}"
    assert student.note == f"It has no finite dev/{quantity}."
    assert student.absence(f"dev/{quantity}") == "missing"


def test_the_teacher_does_not_compete(workdir: Any) -> None:
    found = make(workdir)
    assert [row.label for row in found.methods] == ["basic", "distillation", "PF", "PD", "PD-F"]
    assert found.best("dev/accuracy") == pytest.approx(0.913)


def test_the_best_loss_is_the_lowest(workdir: Any) -> None:
    workdir.write({"PF": "pf", "PD": "pd"}, metrics=("dev/loss",))
    assert make(workdir).best("dev/loss") == pytest.approx(0.22 * 1.1)


def test_calibration_errors_are_percent_of_which_less_is_better(workdir: Any) -> None:
    for name, value in (("pf", 0.2), ("pd", 0.058)):
        path = workdir.folder(name) / "done.json"
        done = json.loads(path.read_text())
        done["metrics"] |= {"dev/calibration_error": value, "dev/teacher_calibration_error": value}
        path.write_text(json.dumps(done))
    metrics = ("dev/calibration_error", "dev/teacher_calibration_error")
    workdir.write({"PF": "pf", "PD": "pd"}, metrics=metrics)
    found = make(workdir)
    assert [found.best(metric) for metric in metrics] == [0.058, 0.058]
    assert table.as_text(found).count(" 5.8") == 2
    assert "dev teacher calibration error %" in table.as_text(found)


def test_without_wishes_every_training_stage_is_a_row(workdir: Any) -> None:
    workdir.write({}, metrics=())
    found = make(workdir)
    assert [row.label for row in found.rows][:2] == ["pretrain", "teacher"]
    assert found.metrics == ("dev/accuracy", "test/accuracy")
    assert found.rows[0].metrics == {}


def test_markdown_marks_the_best_and_escapes(workdir: Any) -> None:
    workdir.write({"a|b": "pf", "PD": "pd"}, metrics=("dev/accuracy",))
    header, marks, first, second, *_ = table.as_markdown(make(workdir)).splitlines()
    assert header.startswith("| method | model | parameters |")
    assert marks.count("---:") == 5
    assert first.startswith("| a\\|b | L2_H128 |")
    assert "**90.7**" in second
    assert "**85.9**" not in first


def test_json_holds_every_row(workdir: Any) -> None:
    found = json.loads(json.dumps(table.as_json(make(workdir)), allow_nan=False))
    assert [row["label"] for row in found["rows"]][-1] == "teacher"
    assert found["rows"][0]["folder"] == workdir.stages["basic"]
    assert found["rows"][0]["intervals"]["test/accuracy"]["count"] == 1821


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (None, "–"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert notation.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(950, "950"), (20_000, "20k"), (999_999, "1M"), (4_386_178, "4.39M"), (1.3e9, "1.3B")],
)
def test_short_counts(value: float, text: str) -> None:
    assert notation.short(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("dev/accuracy", 0.8994, "89.9"),
        ("dev/loss", 0.3317, "0.332"),
        ("train/learning_rate", 0.000_416_67, "0.000417"),
        ("dev/matthews", 0.0, "0.000"),
        ("dev/perplexity", 1234.5, "1234"),
        ("dev/loss", float("nan"), "–"),
    ],
)
def test_scores(metric: str, value: float, text: str) -> None:
    assert notation.score(metric, value) == text


def test_the_command_prints_the_table_and_the_page(
    workdir: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--workdir", str(workdir.root)]) == 0
    out = capsys.readouterr().out
    page = workdir.root / "report-quickstart.html"
    assert "PD-F" in out
    assert out.splitlines()[-1] == f"report of pipeline quickstart: {page}"
    other, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    arguments = ["--workdir", str(workdir.root), "--output", str(other), "--json", str(numbers)]
    assert tool.main([*arguments, "--format", "json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(numbers.read_text())
    assert printed.err.splitlines() == [
        f"reporting on pipeline quickstart in {workdir.root}",
        f"numbers of pipeline quickstart: {numbers}",
        f"report of pipeline quickstart: {other}",
    ]
    assert other.exists()
    assert tool.main([*arguments, "--format", "markdown"]) == 0
    markdown = read_report(workdir.root, "quickstart").as_markdown()
    assert capsys.readouterr().out == f"{markdown}\n"


@pytest.mark.parametrize("option", ["--output", "--json"])
def test_the_command_keeps_the_pipeline_that_it_reads(workdir: Any, option: str) -> None:
    record = workdir.root / "pipelines" / "quickstart.json"
    before = record.read_bytes()
    with pytest.raises(
        ConfigError, match=f"^{option}=.*quickstart.json is a file that is read; name"
    ):
        tool.main(["--workdir", str(workdir.root), option, str(record)])
    assert record.read_bytes() == before
    with pytest.raises(ConfigError, match="--output and --json are both one; name two files"):
        tool.main(["--workdir", str(workdir.root), "--output", "one", "--json", "one"])


def test_the_command_asks_which_of_several_pipelines(
    workdir: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir.name = "other"
    workdir.write({})
    arguments = ["--workdir", str(workdir.root)]
    assert command.run(tool.main, arguments) == 2
    assert "choose one with --pipeline (other, quickstart)" in capsys.readouterr().err
    assert command.run(tool.main, [*arguments, "--pipeline", "other"]) == 0


def test_the_command_refuses_a_folder_without_pipelines(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(tool.main, ["--workdir", str(tmp_path)]) == 2
    assert "has no pipeline to report on" in capsys.readouterr().err
