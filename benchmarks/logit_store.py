"""A logit store of many rows: labelling, streaming, and the cost of checking every row.

    python -m benchmarks.logit_store --rows 200000

Reviews from the development data become records, and a model with random weights labels them. The
store is then read in the order of training, alternately in two ways: as training reads it (checking
the checksum, id and finiteness of every row), and decoded without any check. The difference is
compared with a distillation step on the same batches. Seconds are processor time, which a busy
machine changes least.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks import material, ours, side_by_side
from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.data.feed.batches import make_feed
from pd_jax.data.feed.order import Permutation
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.records.dataset import Dataset
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.objectives.objective import dummy_inputs
from pd_jax.parallel.mesh import make_mesh
from pd_jax.progress import warn
from pd_jax.stages.label import label

_LENGTHS = (16, 32, 64, 128)
_STEPS = 20


def main() -> None:
    """Prints the figures and writes them as JSON."""
    parser = side_by_side.arguments(__doc__ or "", "logit_store", repetitions=5)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--size", default="L2_H128", help="of the teacher and of the student")
    parser.add_argument("--batch", type=int, default=128)
    parsed = parser.parse_args()
    data = material.data_folder()
    if data is None:
        raise SystemExit("error: there is no development data; set PD_JAX_DATA to its folder")
    before = side_by_side.machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        dataset = material.real_dataset("IMDb", parsed.rows, folder=folder, data=data)
        found = measure(dataset, folder, parsed)
    result = {"command": side_by_side.command_line("logit_store"), "machine": before, **found}
    parsed.output.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(parsed.output, result)
    print(
        f"{found['rows']:,} rows: labelled at {found['labelled_rows_a_second']:,.0f} per second of"
        f" processor time ({found['labelled_rows_a_wall_second']:,.0f} of the clock), streamed at"
        f" {found['streamed_rows_a_second']:,.0f}; {found['bytes_a_row']:.1f} bytes per row;"
        f" checking costs {found['check_microseconds_a_row']:.2f} us per row,"
        f" {found['check_share_of_step']:.2%} of a step: {parsed.output}"
    )


def measure(dataset: Dataset, folder: pathlib.Path, parsed: Any) -> dict[str, Any]:
    """Returns the figures of one dataset and teacher."""
    shape = material.shape(parsed.size)
    params = TaskModel(shape, 2).init(jax.random.key(0), *dummy_inputs())["params"]
    tokenizer = dataset.folder / "tokenizer"
    hf.save(
        folder / "teacher",
        params,
        shape,
        labels=material.LABELS,
        task="classification",
        add=lambda target: [
            (target / path.name).write_bytes(path.read_bytes()) for path in tokenizer.iterdir()
        ],
    )
    stage = config_lib.LabelStage(
        teacher=str(folder / "teacher"), records=str(dataset.folder), lengths=_LENGTHS
    )
    mesh = make_mesh(config_lib.Mesh())
    wall = time.perf_counter()
    made = {"title": "labelling", "warn": warn}
    seconds = _seconds(lambda: label(stage, epath.Path(folder / "store"), mesh, **made))
    wall = time.perf_counter() - wall
    store = LogitStore.open(folder / "store")
    checked, unchecked = _read_both(store.check(dataset), dataset, parsed)
    step = _step_seconds(dataset, store, parsed)
    check = (checked - unchecked) / len(dataset)
    return {
        "rows": len(dataset),
        "tokens": dataset.manifest.tokens,
        "teacher": parsed.size,
        "labelled_rows_a_second": len(dataset) / seconds,
        "labelled_rows_a_wall_second": len(dataset) / wall,
        "streamed_rows_a_second": len(dataset) / checked,
        "bytes_a_row": sum(shard.bytes for shard in store.manifest.shards) / len(dataset),
        "check_microseconds_a_row": 1e6 * check,
        "step_milliseconds": 1e3 * step,
        "check_share_of_step": check * parsed.batch / step,
    }


def _read_both(store: LogitStore, dataset: Dataset, parsed: Any) -> tuple[float, float]:
    """Returns the least processor seconds for all rows, checked and merely decoded."""
    order = Permutation(len(dataset), ("benchmark",))(np.arange(len(dataset)))
    blocks = [order[at : at + parsed.batch] for at in range(0, len(order), parsed.batch)]
    ids = [dataset.gather(block).example_ids for block in blocks]

    def checked() -> None:
        for block, names in zip(blocks, ids, strict=True):
            store.read(block, names)

    def decoded() -> None:
        for block in blocks:
            store._layout.decode(store._records(block))

    times: dict[Callable[[], None], list[float]] = {checked: [], decoded: []}
    for repetition in range(parsed.repetitions):
        for run in (checked, decoded)[:: 1 if repetition % 2 else -1]:
            times[run].append(_seconds(run))
    return min(times[checked]), min(times[decoded])


def _step_seconds(dataset: Dataset, store: LogitStore, parsed: Any) -> float:
    """Returns the median processor seconds of a distillation step whose batch is ready."""
    settings = config_lib.Data(records="set", logits="store", batch=parsed.batch, lengths=_LENGTHS)
    batches = make_feed(
        [dataset],
        settings,
        stores=[[store]],
        seed=0,
        first_step=0,
        steps=_STEPS,
        process_index=0,
        process_count=1,
        prefetch=1,
    )
    held = list(batches)
    trainer = ours.Trainer(ours.make_objective("distil", material.shape(parsed.size)))
    trainer.train(held)  # compiles every length
    return statistics.median(_seconds(lambda one=one: trainer.train([one])) for one in held)


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
