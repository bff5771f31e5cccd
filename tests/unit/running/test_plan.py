"""tools.plan: what it reads from a config, what it refuses, and that its step is the real one."""

import importlib.util
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax import estimate, files, planning
from pd_jax.config import reading
from pd_jax.data.feed.batches import rows_per_epoch
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, MeshError, StageError
from pd_jax.models import sizes
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.objectives.objective import OnlineTeacher, StoredStates, dummy_inputs
from pd_jax.parallel import topology
from pd_jax.pipeline import run
from pd_jax.stages.declared import declared
from pd_jax.stages.objectives import make_objective
from pd_jax.tools import command, plan
from pd_jax.training import ahead
from tests import tiny

CONFIG = """
from ml_collections import config_dict

def get_config(arg=""):
    rows = {"layout": "rows"}
    marked = {"layout": "rows", "task": "classification", "labels": ("bad", "fair", "good")}
    read = {"source": {"path": "none.txt"}, "tokenizer": "@vocabulary"}
    train = {"model": {"size": "L1_H64"}, "optimizer": {"learning_rate": 1e-3}}
    data = {"batch": 64, "lengths": (16, 32)}
    config = config_dict.ConfigDict({
        "name": "planned",
        "run": {"mesh": {"fsdp": 4}},
        "stages": {
            "vocabulary": {"kind": "tokenizer", "source": {"path": "none.txt"}, "vocab_size": 500},
            "corpus": {"kind": "records", **read, "examples": {"layout": "corpus"}},
            "labelled": {"kind": "records", **read, "examples": marked},
            "transfer": {"kind": "records", **read, "examples": rows},
            "pretrain": {"kind": "train", **train, "objective": {"kind": "mlm"},
                         "data": {"records": "@corpus", **data}, "length": {"steps": 1000}},
            "teacher": {"kind": "train", **train, "objective": {"kind": "classify"},
                        "data": {"records": "@labelled", **data}, "length": {"epochs": 3}},
            "logits": {"kind": "label", "teacher": "@teacher", "records": "@transfer",
                       "lengths": (32,)},
            "student": {"kind": "train", **train, "objective": {"kind": "distill"},
                        "data": {"records": "@transfer", "logits": "@logits", **data},
                        "length": {"examples": 6400}},
        },
    })
    config.lock()
    return config
"""


@pytest.fixture
def config(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "planned.py"
    path.write_text(CONFIG)
    return str(path)


def figures(tmp_path: pathlib.Path, *arguments: str, status: int = 0) -> list[dict]:
    output = tmp_path / "figures.json"
    assert plan.main([*arguments, f"--json={output}"]) == status
    return json.loads(output.read_text())


def test_every_stage_of_a_config_is_planned_from_what_it_declares(
    config: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    abstract = ("--abstract", "--topology=v5e:4x4", "--rows=640", "--price-per-chip-hour=2")
    made = {entry["name"]: entry for entry in figures(tmp_path, f"--config={config}", *abstract)}
    assert set(made) == {"pretrain", "teacher", "student"}
    assert made["pretrain"]["mesh"] == {"data": 4, "fsdp": 4, "tensor": 1}
    assert {name: entry["steps"] for name, entry in made.items()} == {
        "pretrain": 1000,
        "teacher": 30,  # 3 epochs of 640 rows in batches of 64
        "student": 100,
    }
    # The teacher's head gives three numbers, and so does the student's, which reads no labels.
    assert made["student"]["parameters"] == made["teacher"]["parameters"]
    encoder = 500 * 64 + 512 * 64 + 2 * 64 + 2 * 64 + (4 * 64 * 64 + 4 * 64) + 4 * 64
    encoder += (64 * 256 + 256) + (256 * 64 + 64) + 64 * 64 + 64
    assert made["teacher"]["parameters"] == encoder + 64 * 3 + 3
    assert made["pretrain"]["length"] == 32
    assert made["pretrain"]["hours"] == pytest.approx(
        1000 * made["pretrain"]["useful_flops"] / 197e12 / 3600
    )
    assert made["pretrain"]["cost"] == pytest.approx(made["pretrain"]["hours"] * 16 * 2)
    assert "planned 3 steps for v5e:4x4" in capsys.readouterr().out


def test_changes_on_the_command_line_are_taken(config: str, tmp_path: pathlib.Path) -> None:
    (made,) = figures(
        tmp_path,
        f"--config={config}",
        "--stage=pretrain",
        "--config.stages.pretrain.data.batch=128",
        "--config.stages.pretrain.model.size=L2_H64",
        "--mesh=-1,1,1",
        "--abstract",
        "--topology=v4:2x2x2",
    )
    assert (made["batch"], made["size"], made["devices"]) == (128, "L2_H64", 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --config or --sizes"),
        (("--sizes=Base", "--config=x.py"), "give either --config or --sizes"),
        (("--config=nowhere.py",), "--config=nowhere.py: no such file"),
        (("--config={config}", "--stage=pretrian"), "not a training stage of"),
        (
            ("--config={config}", "--config.stages.pretrain.data.bach=2"),
            "--config.stages.pretrain.data.bach=2 does not fit the config: ",
        ),
        (("--config={config}", "--config.name=x", "stray"), "unexpected argument 'stray'"),
        (("--sizes=Base", "--config.name=x"), "--config.name=x changes a config, not --sizes"),
        (("--sizes=Base", "--jobs=mml"), "--jobs=mml is not a job; give some of mlm, distill"),
        (("--sizes=Base", "--abstract", "--topology=v9:2x2"), "KIND one of v4, v5e, v5p, v6e, l4"),
        (("--sizes=Base", "--abstract", "--topology=v5e:4"), "is not a topology"),
        (("--sizes=Base", "--abstract", "--topology=h100:2x2x2"), "is not a topology"),
        (("--sizes=Base", "--abstract", "--topology=h100:0"), "is not a topology"),
        (
            ("--sizes=Base", "--abstract", "--topology=v5e:4x4", "--mesh=-1,3,1"),
            "16 devices do not divide by fsdp x tensor = 3 x 1 = 3 (16 % 3 = 1)",
        ),
        (
            ("--sizes=Base", "--abstract", "--topology=v5e:4x4", "--batch=100"),
            "data.batch=100 does not divide",
        ),
        (
            ("--sizes=Tiny", "--abstract", "--topology=v5e:4x4", "--mesh=-1,1,4"),
            "2 attention heads do not divide over tensor=4",
        ),
        (
            ("--sizes=Tiny", "--abstract", "--topology=v5e:16x16", "--mesh=1,256,1"),
            "128x128 cannot be split: 128 does not divide by fsdp = 256",
        ),
        (("--sizes=Base", "--mesh=2,2"), "--mesh=2,2 is not a mesh"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    arguments: tuple[str, ...], message: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(config=config) for argument in arguments]
    assert command.run(plan.main, given) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert message in line


@pytest.mark.parametrize(("mesh", "gathers"), [("8,1,1", False), ("2,4,1", True)])
def test_the_training_step_itself_is_compiled_for_the_devices_here(
    mesh: str, gathers: bool, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (made,) = figures(
        tmp_path,
        *("--sizes=L1_H64", "--vocab-size=500", "--batch=32", "--length=16", f"--mesh={mesh}"),
    )
    assert made["fits"] is None  # a CPU tells no limit of its memory
    kinds = made["compiled"]["collectives"]
    assert kinds["all-reduce"][0] >= 1
    assert ("all-gather" in kinds) == gathers
    assert made["compiled"]["argument_bytes"] >= made["state_bytes"]
    told = capfd.readouterr()
    assert "Involuntary full rematerialization" not in told.err
    assert "unknown: no memory limit is known here; give --topology (" in told.out
    assert told.out.endswith(
        f"planned 1 steps for 8 devices here, 1 may fit: {tmp_path}/figures.json\n"
    )


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_named_slice_needs_libtpu() -> None:
    with pytest.raises(MeshError, match=r"needs libtpu; install it .* or lower without it"):
        topology.devices("v5e:4x4")


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is not None, reason="jax has a plugin for GPUs"
)
def test_named_gpus_need_the_plugin() -> None:
    with pytest.raises(MeshError, match=r"needs jax's CUDA plugin; install .*pd_jax\[gpu\]"):
        topology.devices("h100:1")


def test_gpus_are_planned_by_hosts_and_their_memory(tmp_path: pathlib.Path) -> None:
    (made,) = figures(tmp_path, "--sizes=Base", "--abstract", "--topology=h100:2x8")
    assert made["devices"] == 16
    assert made["memory_limit"] == pytest.approx(0.92 * 81_559 * 2**20)
    assert made["step_seconds"] == pytest.approx(made["useful_flops"] / 989e12)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is None, reason="needs the [gpu] extra")
@pytest.mark.parametrize(("name", "kinds"), [("l4:1", set()), ("h100:8", {"all-reduce"})])
def test_gpus_that_are_not_here_are_compiled_for(
    name: str, kinds: set[str], tmp_path: pathlib.Path
) -> None:
    (made,) = figures(
        tmp_path, *("--sizes=L1_H64", "--vocab-size=500", "--batch=32", f"--topology={name}")
    )
    assert made["fits"]
    assert set(made["compiled"]["collectives"]) == kinds
    assert made["compiled"]["kernels"] > 50


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the [tpu] extra")
def test_a_slice_that_is_not_here_is_compiled_for(tmp_path: pathlib.Path) -> None:
    (made,) = figures(
        tmp_path,
        *("--sizes=L1_H64", "--vocab-size=500", "--batch=32", "--topology=v5e:4x4"),
    )
    assert made["fits"]
    assert set(made["compiled"]["collectives"]) == {"all-reduce"}
    with pytest.raises(MeshError, match="--topology=v5e:3x5 does not exist"):
        topology.devices("v5e:3x5")


def test_help_names_both_ways_to_say_what(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plan.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--config" in text and "--sizes" in text and "--topology" in text


def test_a_vocabulary_that_nothing_declares_must_be_given(
    config: str, tmp_path: pathlib.Path
) -> None:
    path = pathlib.Path(config)
    path.write_text(CONFIG.replace('"@vocabulary"', '"elsewhere"'))
    with pytest.raises(ConfigError, match="give --vocab-size"):
        plan.main([f"--config={path}", "--abstract", "--topology=v5e:4x4"])
    vocabulary = tiny.tokenizer(tmp_path) / "vocab.txt"
    path.write_text(CONFIG.replace('"@vocabulary"', repr(str(vocabulary))))
    (made,) = figures(
        tmp_path,
        *(f"--config={path}", "--stage=teacher", "--abstract", "--topology=v5e:4x4"),
    )
    assert made["steps"] is None  # a length in epochs of rows that are not known
    assert made["parameters"] < 150_000


def test_what_is_wrong_with_a_config_is_told_before_a_step_is_planned(
    config: str, tmp_path: pathlib.Path
) -> None:
    path = pathlib.Path(config)
    raising = "    raise ValueError('no such argument')\n    rows ="
    for text, message in (
        (CONFIG.replace("def get_config", "def get_config("), "line 4: .*; correct the file"),
        (CONFIG.replace("    rows =", raising, 1), "no such"),
        (CONFIG.replace("**data", '"packing": 4, **data'), "data.packing=4 depends on the texts"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            plan.main([f"--config={path}", "--abstract", "--topology=v5e:4x4"])
    with pytest.raises(ConfigError, match="--sizes=, names no size; write some, such as L4_H256"):
        plan.main(["--sizes=,", "--abstract"])
    with pytest.raises(ConfigError, match="--json=.* is a folder; name a file in it"):
        plan.main(["--sizes=Tiny", "--abstract", f"--json={tmp_path}"])
    with pytest.raises(
        ConfigError, match="--json=.*planned.py is a file that is read; name another"
    ):
        plan.main([f"--config={path}:small", "--abstract", f"--json={path}"])


def test_a_config_without_a_training_stage_is_refused(config: str) -> None:
    path = pathlib.Path(config)
    trained = "('pretrain', 'teacher', 'logits', 'student')"
    without = f"    for name in {trained}:\n        del config.stages[name]\n    config.lock()"
    path.write_text(CONFIG.replace("    config.lock()", without))
    for stage in ([], ["--stage=corpus"]):
        with pytest.raises(
            ConfigError, match="planned.py has no training stage, .*; give a config"
        ):
            plan.main([f"--config={path}", "--abstract", *stage])


def test_every_job_of_a_size_is_planned(tmp_path: pathlib.Path) -> None:
    made = figures(
        tmp_path,
        *("--sizes=L1_H64", "--jobs=mlm,distill,finetune", "--vocab-size=500"),
        *("--abstract", "--topology=v5e:4x4"),
    )
    assert [plan["name"] for plan in made] == ["L1_H64-mlm", "L1_H64-distill", "L1_H64-finetune"]


def test_logits_that_nothing_would_learn_from_are_refused(config: str) -> None:
    path = pathlib.Path(config)
    path.write_text(CONFIG.replace('"@corpus", **data', '"@corpus", "logits": "store", **data'))
    with pytest.raises(ConfigError, match="objective.kind='mlm' does not learn from data.logits"):
        plan.main([f"--config={path}", "--stage=pretrain", "--abstract", "--topology=v5e:4x4"])


def with_teacher(
    folder: pathlib.Path, tokenizer: pathlib.Path, objective: dict, **label: Any
) -> tuple[config_lib.Pipeline, config_lib.TrainStage]:
    """Returns a pipeline whose teacher is a folder, and the stage that learns from it."""
    rows = config_lib.RecordsStage(
        source=config_lib.Source(path="none.txt"),
        tokenizer=str(tokenizer),
        examples=config_lib.Rows(),
        max_length=16,
    )
    labels = config_lib.LabelStage(teacher=str(folder), records="@set", lengths=(16,), **label)
    read = {"records": "@set", "batch": 8, "lengths": (16,)}
    if "teacher" not in objective:
        read["logits"] = "@labels"
    pupil = tiny.stage(folder, objective=objective, data=read)
    stages = {"set": rows, "labels": labels, "pupil": pupil}
    return config_lib.Pipeline(name="own", stages=stages), pupil


def test_a_teacher_in_a_folder_says_its_task_and_shape(tmp_path: pathlib.Path) -> None:
    shape = sizes.BertConfig(64, layers=2, hidden=8, heads=1, intermediate=8, positions=16)
    params = tiny.weights(TaskModel(shape, 3).init, *dummy_inputs())["params"]
    tokenizer = load_tokenizer(tiny.tokenizer(tmp_path / "words"))
    folder = tmp_path / "teacher"
    hf.save(folder, params, shape, add=tokenizer.save)  # as many of the hub, without a task
    facts = declared(*with_teacher(folder, folder / "tokenizer.json", {"kind": "distill"}))
    assert facts.vocabulary is not None and facts.vocabulary.size == 64
    assert (facts.task, facts.labels) == ("classification", ("LABEL_0", "LABEL_1", "LABEL_2"))
    pipeline, pupil = with_teacher(folder, folder, {"kind": "distill"})
    objective = make_objective(pupil, shape, declared(pipeline, pupil))
    assert ahead.batch_shapes(objective, 4, 16)["teacher_logits"].shape == (4, 3)
    stored = declared(*with_teacher(folder, folder, {"kind": "patient"}, states=(0,)))
    assert stored.teacher == StoredStates(2, 8, (0,))
    online = declared(
        *with_teacher(folder, folder, {"kind": "patient", "teacher": str(folder)})
    ).teacher
    assert isinstance(online, OnlineTeacher) and online.columns == (0, 1, 2)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "id2label": {"0": "stars"}}))
    rated = declared(*with_teacher(folder, folder, {"kind": "distill"}))
    assert (rated.task, rated.labels) == ("regression", ())


def test_labels_that_do_not_go_together_are_told_before_anything_is_labelled(
    tmp_path: pathlib.Path,
) -> None:
    shape = sizes.BertConfig(64, layers=1, hidden=8, heads=1, intermediate=8, positions=16)
    params = tiny.weights(TaskModel(shape, 2).init, *dummy_inputs())["params"]
    tokenizer = load_tokenizer(tiny.tokenizer(tmp_path / "words"))
    folder = tmp_path / "teacher"
    hf.save(folder, params, shape, add=tokenizer.save)  # its outputs are LABEL_0 and LABEL_1
    (tmp_path / "rows.txt").write_text("w1 w2\n")
    (tmp_path / "dev.tsv").write_text("text\tlabel\nw1\tbad\n")
    made = {"tokenizer": str(tmp_path / "words"), "max_length": 16}
    marked = config_lib.Rows(task="classification", labels=("bad", "good"))
    dev = config_lib.Source(path=str(tmp_path / "dev.tsv"), text="text", label="label")
    rows = config_lib.Source(path=str(tmp_path / "rows.txt"))

    def begun(examples: config_lib.Rows, **label: Any) -> None:
        source = dev if examples.labels else rows
        stages = {
            "dev": config_lib.RecordsStage(source=dev, examples=marked, **made),
            "set": config_lib.RecordsStage(source=source, examples=examples, **made),
            "labels": config_lib.LabelStage(
                teacher=str(folder), records="@set", lengths=(16,), **label
            ),
            "pupil": tiny.stage(
                folder,
                objective={"kind": "distill"},
                data={"records": "@set", "logits": "@labels", "batch": 8, "lengths": (16,)},
                evaluation={"sets": {"dev": "@dev"}},
            ),
        }
        pipeline = config_lib.Pipeline(name="own", stages=stages)
        run(pipeline, epath.Path(tmp_path / "work"), only=["dev"], changed=True, say=lambda _: None)

    with pytest.raises(ConfigError, match="set dev has labels bad, good, but the student learns L"):
        begun(config_lib.Rows())
    with pytest.raises(ConfigError, match="student learns good, bad, in this order; list them"):
        begun(config_lib.Rows(), labels=("good", "bad"))
    with pytest.raises(ConfigError, match="labels bad, good, but their teacher's outputs .* LABEL"):
        begun(marked)
    begun(config_lib.Rows(), labels=("bad", "good"))
    begun(marked, labels=("good", "bad"))


def test_a_dataset_and_a_store_in_folders_say_what_they_hold(tmp_path: pathlib.Path) -> None:
    made = tiny.dataset(tmp_path / "set", rows=8)
    tiny.logit_store(tmp_path / "store", made, np.zeros((8, 2), np.float32))
    data = {"records": str(tmp_path / "set"), "batch": 8, "lengths": (16,)}
    read = {**data, "logits": str(tmp_path / "store")}
    pupil = tiny.stage(tmp_path, objective={"kind": "distill"}, data=read)
    plain = tiny.stage(tmp_path, data=data)
    pipeline = config_lib.Pipeline(name="own", stages={"pupil": pupil, "plain": plain})
    for stage in (pupil, plain):
        facts = declared(pipeline, stage)
        assert facts.vocabulary is not None and facts.vocabulary.size == 64
        assert (facts.task, facts.labels, facts.labelled) == ("classification", tiny.LABELS, True)
        assert not facts.next_sentence
    printed: list[str] = []
    planned = planning.plan(pipeline, epath.Path(tmp_path / "work"))
    left = estimate.estimate(pipeline, planned, say=printed.append)
    assert all(one.seconds is not None for one in left)
    assert printed == ["measuring a step of pupil"]  # the other's costs the same


def test_an_estimate_counts_the_rows_of_an_epoch_as_training_does(tmp_path: pathlib.Path) -> None:
    sets = [tiny.dataset(tmp_path / f"set{rows}", rows=rows) for rows in (40, 100)]
    names = tuple(str(one.folder) for one in sets)
    length = {"epochs": 10}
    stages = {
        str(number): tiny.stage(tmp_path, data={"records": names, **data}, length=length)
        for number, data in enumerate(
            {"batch": 8, "lengths": (16,), **more}
            for more in ({}, {"rows": 30}, {"weights": (0.5, 0.5)}, {"packing": 4})
        )
    }
    pipeline = config_lib.Pipeline(name="own", stages=stages)
    planned = planning.plan(pipeline, epath.Path(tmp_path / "work"))
    printed: list[str] = []
    found = estimate.estimate(pipeline, planned, say=printed.append)
    second = found[0].seconds
    assert second is not None and len(printed) == 1
    for one, stage in list(zip(found, stages.values(), strict=True))[:3]:
        rows = rows_per_epoch(sets, stage.data, seed=stage.seed)
        steps = stage.length.in_steps(rows=rows, batch=8)
        assert one.seconds == pytest.approx(second * steps / 175)
    assert found[3].seconds is None and found[3].basis == "packed rows"
    assert estimate.as_text(found).splitlines()[-2].endswith("not known yet: 3")


def test_an_estimate_takes_no_speed_of_another_vocabulary(tmp_path: pathlib.Path) -> None:
    data = {"records": str(tiny.dataset(tmp_path / "set", rows=8).folder)}
    data |= {"batch": 8, "lengths": (16,)}
    stage = tiny.stage(tmp_path, objective={"kind": "mlm"}, data=data)
    pipeline = config_lib.Pipeline(name="own", stages={"one": stage, "two": stage})
    planned = planning.plan(pipeline, epath.Path(tmp_path / "work"))
    bases = []
    for words in (64, 65):
        folder = tmp_path / "work" / "stages" / f"done-{words}"
        shape = sizes.BertConfig(words, layers=1, hidden=8, heads=1, intermediate=8, positions=16)
        params = tiny.weights(TaskModel(shape, 2).init, *dummy_inputs())["params"]
        hf.save(folder / "model", params, shape)
        done = {"kind": "train", "steps": 100, "seconds": 100 * words}
        files.write_json(folder / "done.json", done)
        files.write_json(folder / "config.json", reading.to_json(stage))
    (found,) = estimate.estimate(pipeline, planned, only=("two",), say=bases.append)
    assert found.name == "two" and not bases
    assert found.seconds == 64 * 12


def test_an_estimate_says_what_it_lacks(tmp_path: pathlib.Path) -> None:
    words = tiny.tokenizer(tmp_path / "words")
    with pytest.raises(StageError, match="cannot tell the task that objective.kind='distill'"):
        estimate.measure(*with_teacher(tmp_path / "none", words, {"kind": "distill"}))
    with pytest.raises(StageError, match="size of the vocabulary of @set; name in data.records"):
        estimate.measure(*with_teacher(tmp_path / "none", tmp_path / "no.json", {"kind": "mlm"}))
