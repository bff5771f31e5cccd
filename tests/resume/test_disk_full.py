"""A disk that fills up: nothing that was whole is lost, nothing half-written is taken for whole.

The disk is real, a tmpfs of a few megabytes, where the tests may mount one; else they are skipped.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from etils import epath

from pd_jax import execution, files, pipeline
from pd_jax.config import reading
from pd_jax.data.records import manifest
from pd_jax.data.wire import tfrecord
from pd_jax.errors import PdError, no_space
from pd_jax.models.weights import hf
from pd_jax.stages.train import run_train
from pd_jax.tools import build_records, command
from pd_jax.training import loop
from pd_jax.training import metrics as metrics_lib
from pd_jax.training.checkpoint import quiet_failed_saves
from pd_jax.training.metrics import MetricsFile
from tests import tiny
from tests.e2e.chain import small_chain, write_text
from tests.resume.test_resume import context, lines, stage

MEGABYTES = 8


@pytest.fixture
def disk(tmp_path):
    """Returns the root of a small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: pathlib.Path, *, but: int = 0) -> pathlib.Path:
    """Fills a disk up to so many bytes, and returns the file that takes the room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(1 << 16))
        except OSError as fault:
            assert no_space(fault)
        if but:
            stream.truncate(max(0, stream.tell() - but))
    return ballast


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny.dataset(folder / "train", rows=200)
    tiny.dataset(folder / "dev", rows=50, seed=1)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_train(stage(data), context(folder))
    return folder


def train_until_full(data: str, disk: str, step: str, but: str) -> None:
    """Ends this process as a job ends whose disk fills up when it is about to begin this step."""
    due = loop.Loop._due_to_evaluate

    def filling(self, number):
        if number == int(step):
            self.checkpoints.wait()
            fill(pathlib.Path(disk), but=int(but))
        return due(self, number)

    loop.Loop._due_to_evaluate = filling
    quiet_failed_saves()
    made = stage(pathlib.Path(data)), context(f"{disk}/job", save_seconds=1e-6, tensorboard=True)

    def train(_) -> int:
        try:
            run_train(*made)
        except (PdError, OSError) as fault:
            assert no_space(fault), fault
            raise
        return 0

    sys.exit(command.run(train))


@pytest.mark.parametrize(
    ("step", "but"),
    [
        (7, 0),
        *(
            pytest.param(step, but, marks=pytest.mark.slow)
            for step in (3, 11)
            for but in (0, 9_000)
        ),
        *(pytest.param(7, but, marks=pytest.mark.slow) for but in (4_096, 100_000, 300_000)),
    ],
)
def test_training_that_meets_a_full_disk_keeps_its_checkpoint_and_goes_on_later(
    data, undisturbed, disk, step, but
):
    # In a process of its own: what Orbax leaves of a failed save, writes that it never began among
    # it, ends with the process, as it does at a user's.
    program = "import sys; from tests.resume import test_disk_full as here; "
    program += "here.train_until_full(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(data), str(disk), str(step), str(but)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(jax.device_count())},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    if "the checkpoint of step" in error:
        assert "is untouched: free some space there and run" in error
    folder = disk / "job"
    kept = [path.name for path in (folder / "checkpoints").iterdir() if path.name.isdigit()]
    assert kept
    assert not (folder / "model").exists()
    (disk / "ballast").unlink()
    run_train(stage(data), context(folder, save_seconds=1e-6, tensorboard=True))
    first, second = (hf.load(one / "model") for one in (undisturbed, folder))
    assert first.fingerprint == second.fingerprint
    assert lines(undisturbed) == lines(folder)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_build_that_meets_a_full_disk_keeps_its_whole_shards_and_goes_on_later(
    disk, tmp_path, capsys, workers
):
    vocabulary = tiny.tokenizer(tmp_path / "vocabulary") / "vocab.txt"
    rows = [
        " ".join(tiny.WORDS[(7 * row + word) % 59] for word in range(20)) for row in range(2_000)
    ]
    (tmp_path / "a.txt").write_text("\n".join(rows) + "\n")
    arguments = [
        "--input",
        str(tmp_path / "a.txt"),
        "--tokenizer",
        str(vocabulary),
        "--shards",
        "8",
    ]
    arguments += ["--workers", workers, "--output"]

    def build(folder: pathlib.Path) -> int:
        return command.run(build_records.main, [*arguments, str(folder)])

    assert build(tmp_path / "set") == 0
    ballast = fill(disk, but=200_000)
    capsys.readouterr()
    assert build(disk / "set") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "could not be written" in error and "No space left" in error
    whole = sorted((disk / "set").glob("*.shard.json"))
    assert 0 < len(whole) < 8
    assert not (disk / "set" / "manifest.json").exists()
    assert [path for path in disk.rglob(".*") if ".partial-" in path.name] == []
    times = [path.stat().st_mtime_ns for path in whole]
    ballast.unlink()
    assert build(disk / "set") == 0
    assert [path.stat().st_mtime_ns for path in whole] == times
    one, other = (manifest.read(folder / "set") for folder in (tmp_path, disk))
    assert one.shards == other.shards


def test_the_metrics_files_take_whole_lines_or_none(disk):
    folder = epath.Path(disk / "job")
    folder.mkdir()
    metrics = MetricsFile(folder, first_step=0, tensorboard=False)
    metrics.write({"step": 1, "train/loss": 0.5})
    ballast = fill(disk, but=0)
    long = {f"train/{number}": 0.25 for number in range(1_000)}
    with pytest.raises(OSError, match="No space left"):
        metrics.write({"step": 2, **long})
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 0.5}\n'
    ballast.unlink()
    metrics.write({"step": 2, "train/loss": 0.25})
    assert len(lines(folder)) == 2


def test_tensorboard_on_a_full_disk_raises_and_does_not_hang(disk):
    folder = epath.Path(disk / "job")
    folder.mkdir()
    metrics = MetricsFile(folder, first_step=0, tensorboard=True)
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        for step in range(1, 1_000):
            metrics._board.write({"step": step, "train/loss": 0.5})


def test_tensorboard_has_every_value_once_after_a_restart(tmp_path):
    """Its reader drops what stood in earlier files from the step of a session's start on."""
    folder = epath.Path(tmp_path)
    metrics = MetricsFile(folder, first_step=0, tensorboard=True)
    for step in (2, 4, 6):
        metrics.write({"step": step, "train/loss": step / 8})
    again = MetricsFile(folder, first_step=4, tensorboard=True)
    again.write({"step": 6, "train/loss": 0.75})
    from tensorboardX.proto import event_pb2

    kept: dict[int, float] = {}
    written = sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for frame in (frame for path in written for frame in tfrecord.read_frames(path)):
        event = event_pb2.Event.FromString(frame.payload)
        if event.session_log.status == event_pb2.SessionLog.START:
            kept = {step: value for step, value in kept.items() if step < event.step}
        for value in event.summary.value:
            assert value.tag == "train/loss"
            kept[event.step] = value.simple_value
    assert kept == {2: 0.25, 4: 0.5, 6: 0.75}


def test_lines_for_a_bucket_are_written_by_the_minute_and_before_a_save(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    appended = []
    whole = files.append
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    monkeypatch.setattr(
        files, "append", lambda path, content: appended.append(path.name) or whole(path, content)
    )
    metrics = MetricsFile(folder, first_step=0, tensorboard=False)
    for step in range(1, 5):
        metrics.write({"step": step, "train/loss": 0.5})
        metrics.write_spans({"step": 0.25}, step)
    assert appended == []
    metrics.flush()
    metrics.flush()
    assert appended == ["metrics.jsonl", "spans.jsonl"]
    monkeypatch.setattr(metrics_lib, "_HELD_SECONDS", 0.0)
    metrics = MetricsFile(folder, first_step=3, tensorboard=False)  # as of a checkpoint of step 3
    metrics.write({"step": 4, "train/loss": 0.25})
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4]
    spans = [json.loads(line) for line in (folder / "spans.jsonl").read_text().splitlines()]
    assert spans == [{"name": "step", "seconds": 0.25, "step": step} for step in range(1, 5)]


def test_a_model_that_does_not_fit_leaves_the_older_one(disk, undisturbed):
    model = hf.load(undisturbed / "model")

    def save() -> str:
        return hf.save(disk / "model", model.params, model.config, labels=(), task=None)

    fingerprint = save()
    ballast = fill(disk, but=50_000)
    with pytest.raises(OSError, match="No space left"):
        save()
    assert hf.load(disk / "model").fingerprint == fingerprint
    ballast.unlink()
    assert sorted(path.name for path in disk.iterdir()) == ["model"]


def test_the_chain_on_a_disk_that_fills_up_goes_on_where_there_is_room(disk, tmp_path, monkeypatch):
    write_text(tmp_path / "text")
    config = reading.pipeline_from(small_chain(tmp_path / "text"))
    workdir = epath.Path(disk / "work")
    record = disk / "work" / "pipelines" / "chain.json"
    run_stages = execution.run_stages

    def filling(items, *others):
        if items[0].name == "transfer":
            fill(disk, but=20_000)
        return run_stages(items, *others)

    with monkeypatch.context() as patched:
        patched.setattr(execution, "run_stages", filling)
        with pytest.raises(PdError, match="No space left .*(free some space|free space)"):
            pipeline.run(config, workdir, say=lambda line: None)
    json.loads(record.read_text())
    assert [path for path in disk.rglob(".*") if ".partial-" in path.name] == []
    (disk / "ballast").unlink()
    printed: list[str] = []
    pipeline.run(config, workdir, only=("transfer",), say=printed.append)
    assert printed[0] == "pipeline chain: 1 stages, 0 done, 1 to run"
    assert json.loads(record.read_text())["status"]["transfer"] == "done"
