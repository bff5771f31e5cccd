"""The whole chain on a few lines of text: run, run again, change, damage, misuse."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from pd_jax import execution, pipeline, planning
from pd_jax.config import reading
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import LockError, PdError, StageError
from pd_jax.evaluation import predictions
from pd_jax.models.weights import hf
from pd_jax.stages.runners import carry_out
from tests.e2e.chain import run, small_chain, write_text
from tests.unit.running.test_locks import holder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir in which the chain has run, and its output."""
    folder = tmp_path_factory.mktemp("chain")
    write_text(folder / "text")
    printed = run(folder, small_chain(folder / "text"))
    return folder, printed


def stage_folder(folder, name):
    record = json.loads((folder / "work" / "pipelines" / "chain.json").read_text())
    return folder / "work" / record["stages"][name]


def test_the_chain_learns_and_leaves_what_the_readme_says(finished):
    folder, _ = finished
    student = stage_folder(folder, "student")
    done = json.loads((student / "done.json").read_text())
    assert done["metrics"]["dev/accuracy"] > 0.9
    assert done["metrics"]["dev/rows"] == 140
    for name in ("config.json", "versions.json", "parameters.txt", "metrics.jsonl", "spans.jsonl"):
        assert (student / name).stat().st_size > 0
    model = hf.load(student / "model")
    assert model.labels == ("bad", "good")
    assert (model.reads, model.config.positions) == (16, 32)  # rows were cut at 16 tokens
    store = LogitStore.open(stage_folder(folder, "labels") / "logits")
    assert store.manifest.teacher == hf.load(stage_folder(folder, "teacher") / "model").fingerprint


def test_predictions_are_kept_row_by_row_and_give_the_metrics(finished):
    folder, _ = finished
    student, teacher = stage_folder(folder, "student"), stage_folder(folder, "labels") / "logits"
    metrics = json.loads((student / "done.json").read_text())["metrics"]
    dev = predictions.read(epath.Path(student), "dev")
    rows = Dataset.open(stage_folder(folder, "dev") / "records").gather(np.arange(140))
    assert dev.teacher is None
    assert (dev.label == rows.labels).all()
    assert metrics["dev/accuracy"] == (dev.logits.argmax(-1) == dev.label).mean()
    unseen = predictions.read(epath.Path(student), "unseen")
    data = Dataset.open(stage_folder(folder, "transfer") / "records")
    chosen = np.arange(len(data))
    stored = LogitStore.open(teacher).read(chosen, data.gather(chosen).example_ids)["logits"]
    assert unseen.label is None
    np.testing.assert_array_equal(unseen.teacher, stored)
    same = unseen.logits.argmax(-1) == stored.argmax(-1)
    assert metrics["unseen/agreement"] == same.mean() > 0.9
    odds = [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (stored, unseen.logits)]
    by_hand = (odds[0] * np.log(odds[0] / odds[1])).sum(-1).mean()
    assert metrics["unseen/kl"] == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.slow
def test_a_masked_language_model_teaches_through_a_store(finished):
    folder, _ = finished
    config = small_chain(folder / "text")
    stages = {name: config["stages"][name] for name in ("vocabulary", "transfer", "labels")}
    read = {"records": "@transfer", "batch": 32, "lengths": (16,)}
    speaker = {**config["stages"]["teacher"], "objective": {"kind": "mlm"}, "data": read}
    speaker["evaluation"] = {"sets": {"dev": "@transfer"}}
    objective = {"kind": "lm_distill", "positions": "masked", "cosine_weight": 0.0}
    stages |= {
        "speaker": speaker,
        "labels": {**stages["labels"], "teacher": "@speaker", "language": {"top_k": 8}},
        "pupil": {
            **speaker,
            "objective": objective,
            "data": {**read, "logits": "@labels"},
            "evaluation": {"sets": {"dev": "@transfer"}, "logits": {"dev": "@labels"}},
        },
    }
    report = {"rows": (("Pupil", "pupil"),), "metrics": ("dev/agreement", "dev/kl")}
    printed = run(folder, {**config, "name": "language", "stages": stages, "report": report})
    assert printed[0] == "pipeline language: 5 stages, 2 done, 3 to run"
    record = json.loads((folder / "work" / "pipelines" / "language.json").read_text())
    pupil = folder / "work" / record["stages"]["pupil"]
    lines = [json.loads(line) for line in (pupil / "metrics.jsonl").read_text().splitlines()]
    kl = [line["train/kl"] for line in lines if "train/kl" in line]
    metrics = json.loads((pupil / "done.json").read_text())["metrics"]
    assert kl[-1] < 0.7 * kl[0]
    assert metrics["dev/kl"] < 0.7 * kl[0] and metrics["dev/agreement"] > 0.3


def test_an_export_is_a_stage_and_says_how_near_it_is(finished):
    pytest.importorskip("onnxruntime")
    folder, _ = finished
    exported = {"kind": "export", "model": "@student", "format": "onnx", "int8": True}
    chain = small_chain(folder / "text", exported=exported)
    run(folder, {**chain, "name": "exporting"})
    record = json.loads((folder / "work" / "pipelines" / "exporting.json").read_text())
    stage = folder / "work" / record["stages"]["exported"]
    checks = json.loads((stage / "done.json").read_text())["outputs"]["checks"]
    assert [check["file"] for check in checks] == ["model.onnx", "model_int8.onnx"]
    assert checks[0]["difference"] < 1e-4
    assert "Teacher" in (stage / "export" / "README.md").read_text()


def test_a_second_run_does_nothing_and_says_so(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "work" / "stages").rglob("*")}
    printed = run(folder, small_chain(folder / "text"))
    assert printed == ["pipeline chain: 7 stages, 7 done, 0 to run"]
    assert before == {
        path: path.stat().st_mtime_ns for path in (folder / "work" / "stages").rglob("*")
    }


def test_seconds_are_those_of_all_sessions(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "work", tmp_path / "work")
    (path,) = (tmp_path / "work" / "stages").glob("labels-*/done.json")
    before = json.loads(path.read_text())["seconds"]
    path.unlink()  # as a kill just before it was written would leave the stage
    run(tmp_path, small_chain(folder / "text"))
    assert json.loads(path.read_text())["seconds"] > before > 0
    sessions = (path.parent / "sessions.jsonl").read_text().splitlines()
    assert len(sessions) == 2


def test_a_finished_stage_has_its_model_in_place_of_checkpoints(finished):
    folder, _ = finished
    for name in ("teacher", "student"):
        kept = {path.name for path in stage_folder(folder, name).iterdir()}
        assert {"model", "done.json"} <= kept and "checkpoints" not in kept


def test_candidates_for_the_best_weights_are_gone_once_their_stage_is_done(finished):
    folder, _ = finished
    config = {**small_chain(folder / "text"), "name": "best", "report": {}}
    best = {"sets": {"dev": "@dev"}, "every": {"steps": 2}, "best": "dev/accuracy"}
    config["stages"]["teacher"] |= {"length": {"steps": 4}, "evaluation": best}
    run(folder, config, only=("teacher",))
    record = json.loads((folder / "work" / "pipelines" / "best.json").read_text())
    teacher = folder / "work" / record["stages"]["teacher"]
    assert json.loads((teacher / "done.json").read_text())["outputs"]["best_step"] in (2, 4)
    assert (teacher / "model").exists()
    assert not (teacher / "best").exists()


def test_another_config_is_refused_and_then_reuses_equal_stages(finished):
    folder, _ = finished
    config = small_chain(folder / "text")
    config["stages"]["student"]["length"] = {"steps": 20}
    with pytest.raises(StageError, match="stages.student.length.steps was 60, is 20.*--changed"):
        run(folder, config)
    printed = run(folder, config, changed=True)
    assert printed[0] == "pipeline chain: 7 stages, 6 done, 1 to run"
    assert "length.steps was 60, is 20" in printed[1]
    run(folder, small_chain(folder / "text"), changed=True)


def test_an_output_that_was_removed_is_named_with_the_way_to_make_it_again(tmp_path):
    write_text(tmp_path / "text")
    chain = small_chain(tmp_path / "text")
    kept = ("vocabulary", "train", "dev")
    chain["stages"] = {name: chain["stages"][name] for name in kept}
    chain["report"] = {}
    config, work = reading.pipeline_from(chain), epath.Path(tmp_path / "work")
    pipeline.run(config, work, only=("vocabulary", "train"))
    made = planning.plan(config, work)["vocabulary"]
    made.output.rmtree()
    with pytest.raises(StageError, match=f"'dev' reads {made.output}, which is gone; remove"):
        pipeline.run(config, work)
    pipeline.run(config, work, only=("train",))  # done: it reads nothing any more
    made.folder.rmtree()
    pipeline.run(config, work)
    assert all(item.done for item in planning.plan(config, work).values())


def test_a_changed_input_file_makes_its_stages_anew(tmp_path):
    write_text(tmp_path / "text")
    config = reading.pipeline_from(small_chain(tmp_path / "text"))
    before = planning.plan(config, epath.Path(tmp_path / "work"))
    path = tmp_path / "text" / "dev.tsv"
    path.write_text(path.read_text() + "good\tone more row\n")
    after = planning.plan(config, epath.Path(tmp_path / "work"))
    changed = {name for name in before if before[name].fingerprint != after[name].fingerprint}
    assert changed == {"dev", "teacher", "labels", "student"}


@pytest.mark.parametrize("stage", ["vocabulary", "dev"])
def test_an_input_changed_in_the_middle_is_not_taken_for_the_planned_one(
    tmp_path, stage, monkeypatch
):
    config = vocabulary_alone(tmp_path)
    config["stages"]["dev"] = small_chain(tmp_path / "text")["stages"]["dev"]
    path = tmp_path / "text" / "dev.tsv"

    def changing(resolved, contexts):
        ended = carry_out(resolved, contexts)
        if contexts[0].name == stage:
            path.write_text(path.read_text() + "good\tone more row\n")
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(execution, "carry_out", changing)
        with pytest.raises(StageError, match="inputs of stage 'dev' have changed since this"):
            run(tmp_path, config)
    assert run(tmp_path, config)[0].endswith("2 stages, 1 done, 1 to run")


def test_what_done_stages_have_read_may_be_moved_away(tmp_path):
    config = vocabulary_alone(tmp_path)
    run(tmp_path, config)
    text, moved = tmp_path / "text", tmp_path / "moved"
    text.rename(moved)
    assert run(tmp_path, config) == ["pipeline chain: 1 stages, 1 done, 0 to run"]
    (tmp_path / "pod").mkdir()
    shutil.copytree(tmp_path / "work", tmp_path / "pod" / "work")
    assert run(tmp_path / "pod", config)[-1].endswith("1 done, 0 to run")
    (tmp_path / "empty").mkdir()
    absent = "stage 'vocabulary' cannot read its input: .*corpus.txt does not exist"
    with pytest.raises(StageError, match=absent):
        run(tmp_path / "empty", config)
    larger = {**config, "stages": {"vocabulary": config["stages"]["vocabulary"] | {"seed": 1}}}
    with pytest.raises(StageError, match=absent):  # which is not done
        run(tmp_path, larger, changed=True)
    moved.rename(text)
    (text / "corpus.txt").write_text("other words\n" * 200)
    before = planning.plan(reading.pipeline_from(config), epath.Path(tmp_path / "work"))
    assert not before["vocabulary"].done
    text.rename(moved)  # what was read last differs from what the finished stage has read
    with pytest.raises(StageError, match="cannot read its input"):
        run(tmp_path, config)


def test_equal_stages_of_other_names_share_a_folder(finished):
    folder, _ = finished
    config = small_chain(folder / "text")
    stages = {"words": config["stages"].pop("vocabulary")}
    text = json.dumps(config).replace("@vocabulary", "@words")
    config = json.loads(text)
    config["stages"] |= stages
    config["name"] = "other"
    planned = planning.plan(reading.pipeline_from(config), epath.Path(folder / "work"))
    assert all(item.done for item in planned.values())
    assert planned["words"].folder.name.startswith("vocabulary-")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": {"data": {"records": "@trian"}}}, "refers to @trian.*did you mean 'train'"),
        ({"train": {"source": {"path": "/nowhere.tsv"}}}, "cannot read its input: /nowhere.tsv"),
        ({"labels": {"teacher": "@student"}}, "wait for each other"),
        ({"student": {"data": {"logits": None}}}, "needs data.logits"),
        ({"teacher": {"data": {"records": "@transfer"}}}, "needs labels, but .* has none"),
        ({"train": {"examples": {"labels": ("good", "fine")}}}, "set dev has labels .*learns good"),
        (
            {name: {"examples": {"labels": ("good", "fine")}} for name in ("train", "dev")},
            "(train|dev).tsv.*bad",
        ),
        ({"train": {"source": {"text": "sentence"}}}, "sentence"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(finished, tmp_path, change, message):
    folder, _ = finished
    config = small_chain(folder / "text")
    for stage, fields in change.items():
        for key, value in fields.items():
            kept = config["stages"][stage].get(key)
            config["stages"][stage][key] = {**kept, **value} if isinstance(kept, dict) else value
    with pytest.raises(PdError, match=message) as fault:
        pipeline.run(reading.pipeline_from(config), epath.Path(tmp_path / "work"))
    assert "\n" not in str(fault.value)
    finished_stages = (tmp_path / "work" / "stages").glob("*/done.json")
    assert not any(stage in path.parent.name for path in finished_stages for stage in change)


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pd_jax.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_command_ends_with_one_line_and_a_status(tmp_path):
    config = tmp_path / "bad.py"
    config.write_text(
        "import ml_collections\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'name': 'bad', 'stages': {}, 'stagess': 1})\n"
    )
    ended = command(f"--config={config}", f"--workdir={tmp_path / 'work'}")
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1] == (
        "error: config.stagess is not a known key; did you mean 'stages'?"
    )


@pytest.mark.parametrize("flag", ["--config.stages.pd.lenght=3", "--config.stages.teachr.seed=3"])
def test_a_flag_for_a_key_that_is_not_there_ends_in_one_line(tmp_path, flag):
    ended = command("--config=configs/quickstart.py", flag, f"--workdir={tmp_path}")
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith(f"error: {flag} does not fit the config: ")
    assert "Did you mean" in line


@pytest.mark.parametrize("more", [[], ["--config.run.log_steps=3"]])
def test_a_config_that_is_not_there_ends_in_one_line(tmp_path, more):
    ended = command("--config=configs/study/size.py:seeds=2", f"--workdir={tmp_path}", *more)
    assert ended.returncode == 2
    assert ended.stderr.strip() == (
        "error: --config=configs/study/size.py: no such file; "
        "did you mean 'configs/study/sizes.py'?"
    )


@pytest.mark.parametrize("body", ["def get_config():\n    return None.stages\n", "None.stages\n"])
def test_a_fault_in_the_configs_own_file_keeps_its_traceback(tmp_path, body):
    (tmp_path / "mine.py").write_text(body)
    ended = command(f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'runs'}")
    assert ended.returncode == 2
    assert "mine.py" in ended.stderr and "None.stages" in ended.stderr
    assert "does not fit the config" not in ended.stderr


def vocabulary_alone(tmp_path) -> dict:
    """Returns the smallest pipeline: one stage that trains a vocabulary."""
    if not (tmp_path / "text").exists():
        write_text(tmp_path / "text")
    chain = small_chain(tmp_path / "text")
    chain["stages"] = {"vocabulary": chain["stages"]["vocabulary"]}
    return chain | {"report": {}}


def lock_of(tmp_path, config):
    planned = planning.plan(reading.pipeline_from(config), epath.Path(tmp_path / "work"))
    item = planned["vocabulary"]
    return item, tmp_path / "work" / "stages" / f"{item.fingerprint}.lock"


def test_a_stage_that_another_process_runs_is_refused_and_stays_waiting(tmp_path):
    config = vocabulary_alone(tmp_path)
    item, lock = lock_of(tmp_path, config)
    with holder(lock) as other:
        with pytest.raises(LockError, match=f"stage 'vocabulary' is .* process {other.pid} on"):
            run(tmp_path, config)
        assert not item.folder.exists()
        record = json.loads((tmp_path / "work" / "pipelines" / "chain.json").read_text())
        assert record["status"] == {"vocabulary": "waiting"}
        assert record["faults"] == {}
    assert "done in" in run(tmp_path, config)[-1]
    assert not lock.exists()


def test_a_stage_that_another_process_ran_meanwhile_is_taken(tmp_path):
    config = vocabulary_alone(tmp_path)
    _, lock = lock_of(tmp_path, config)
    (tmp_path / "elsewhere").mkdir()
    run(tmp_path / "elsewhere", config)
    (finished,) = (tmp_path / "elsewhere" / "work" / "stages").glob("vocabulary-*")

    def meanwhile(line: str) -> None:
        if line.startswith("pipeline chain"):  # planned, and no lock taken yet
            lock.parent.mkdir(parents=True)
            # The other's pipeline calls the stage otherwise.
            finished.rename(lock.parent / finished.name.replace("vocabulary", "words"))

    pipeline.run(reading.pipeline_from(config), epath.Path(tmp_path / "work"), say=meanwhile)
    (made,) = lock.parent.glob("*-*")
    assert made.name.startswith("words-")
    record = json.loads((tmp_path / "work" / "pipelines" / "chain.json").read_text())
    assert record["stages"]["vocabulary"] == f"stages/{made.name}"
    assert record["status"] == {"vocabulary": "done"}
