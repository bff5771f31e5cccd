import json
import math
import pathlib
from typing import Any

import pytest

from pd_jax.errors import ReportError
from pd_jax.report import load


def load_it(workdir: Any) -> load.Pipeline:
    return load.load_pipeline(workdir.root, workdir.name)


def test_a_finished_pipeline(workdir: Any) -> None:
    pipeline = load_it(workdir)
    assert list(pipeline.stages) == list(workdir.stages)
    assert {stage.status for stage in pipeline.stages.values()} == {"done"}
    stage = pipeline.stages["pd"]
    assert stage.done is not None
    assert (stage.kind, stage.done.seconds, stage.done.steps) == ("train", 27.0, 900)
    assert stage.folder == workdir.stages["pd"]
    assert stage.spans["step"] == pytest.approx(27 * 0.74)
    assert stage.examples[900] == 900 * 64
    assert max(stage.history["dev/accuracy"]) == 900
    assert stage.versions["jax"] == "0.10.2"
    assert stage.note == ""


def test_a_last_line_cut_by_a_kill_is_ignored(workdir: Any) -> None:
    before = load_it(workdir).stages["pd"].history
    for name in ("metrics.jsonl", "spans.jsonl"):
        path = workdir.folder("pd") / name
        path.write_bytes(path.read_bytes() + b'{"step": 999, "train/lo\xc3')
    assert load_it(workdir).stages["pd"].history == before


@pytest.mark.parametrize("line", [b'{"step": 9, "tr', b"[1, 2]", b"\xff\xfe", b"\x00\x00"])
def test_any_other_broken_line_names_file_and_line(workdir: Any, line: bytes) -> None:
    path = workdir.folder("pd") / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ReportError, match=r"metrics\.jsonl line 3 is not a JSON object"):
        load_it(workdir)


def test_a_stage_without_done_has_failed_or_is_unfinished(workdir: Any) -> None:
    for name, status in (("pd", "done"), ("pf", "failed"), ("pd_f", "running")):
        (workdir.folder(name) / "done.json").unlink()
        workdir.status[name] = status
    workdir.stages["later"] = "stages/later-00"
    workdir.status["later"] = "waiting"
    workdir.write({})
    stages = load_it(workdir).stages
    assert {n: stages[n].status for n in ("pd", "pf", "pd_f", "later", "basic")} == {
        "pd": "failed",
        "pf": "failed",
        "pd_f": "unfinished",
        "later": "not run",
        "basic": "done",
    }
    assert "done.json is missing" in stages["pd"].note
    assert "same command again" in stages["pd_f"].note
    assert stages["pd_f"].history["train/loss"]
    assert not stages["later"].present


def test_the_pipelines_own_word_on_a_fault_is_shown(workdir: Any) -> None:
    (workdir.folder("pd") / "done.json").unlink()
    workdir.status["pd"] = "failed"
    path = workdir.write({})
    content = json.loads(path.read_text()) | {"faults": {"pd": "row 3 of a.tsv has no label"}}
    path.write_text(json.dumps(content))
    assert load_it(workdir).stages["pd"].note == "row 3 of a.tsv has no label"


@pytest.mark.parametrize("value", ["NaN", "null", "Infinity"])
def test_divergence_is_said_with_its_step(workdir: Any, value: str) -> None:
    path = workdir.folder("pd") / "metrics.jsonl"
    path.write_text(path.read_text() + f'{{"step": 901, "train/loss": {value}}}\n')
    stage = load_it(workdir).stages["pd"]
    assert stage.note == "train/loss was not finite at step 901."
    assert not math.isfinite(stage.history["train/loss"][901])


def test_steps_written_twice_count_once_as_last_written(empty: Any) -> None:
    folder = empty.begin("a", {"kind": "train"})
    lines = [(100, 0.9), (200, 0.8), (300, 0.7), (200, 0.6), (400, 0.5)]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "train/loss": v}) + "\n" for s, v in lines)
    )
    empty.write({})
    history = load_it(empty).stages["a"].history
    assert list(history["train/loss"].items()) == [(100, 0.9), (200, 0.6), (300, 0.7), (400, 0.5)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not valid JSON"),
        ("[]", "its content is not valid"),
        ('{"kind": "train"}', "seconds is not valid"),
        ('{"kind": "train", "seconds": NaN}', "seconds is not valid"),
        ('{"kind": "train", "seconds": 1, "metrics": {"dev/accuracy": "high"}}', "dev/accuracy"),
    ],
)
def test_a_damaged_done_json_is_refused(workdir: Any, content: str, reason: str) -> None:
    (workdir.folder("pd") / "done.json").write_text(content)
    with pytest.raises(ReportError, match=rf"done\.json.*{reason}"):
        load_it(workdir)


def test_a_finished_stage_without_config_is_refused(workdir: Any) -> None:
    (workdir.folder("pd") / "config.json").unlink()
    with pytest.raises(ReportError, match=r"config\.json does not exist"):
        load_it(workdir)


@pytest.mark.parametrize("folder", ["/etc", "../elsewhere", "stages/../../x", "gs://a/b", ""])
def test_a_stage_folder_outside_of_the_workdir_is_refused(workdir: Any, folder: str) -> None:
    workdir.stages["pd"] = folder
    workdir.write({})
    with pytest.raises(ReportError, match="not inside the workdir"):
        load_it(workdir)


def test_an_unknown_pipeline_names_those_that_are_there(workdir: Any) -> None:
    with pytest.raises(ReportError, match="no pipeline 'quick'.*it has: quickstart"):
        load.load_pipeline(workdir.root, "quick")
    assert load.pipeline_names(workdir.root) == ("quickstart",)
    assert load.pipeline_names(workdir.root / "nowhere") == ()


def test_a_row_of_an_unknown_stage_is_refused(workdir: Any) -> None:
    workdir.write({"PD": "pdd"})
    with pytest.raises(ReportError, match="'pdd', which is not a stage"):
        load_it(workdir)


def test_windows_separators_are_read(workdir: Any) -> None:
    workdir.stages["pd"] = workdir.stages["pd"].replace("/", "\\")
    workdir.write({})
    stage = load_it(workdir).stages["pd"]
    assert stage.done is not None
    assert pathlib.PurePosixPath(stage.folder).parent.name == "stages"
