"""Training steps, against transformers on PyTorch: pre-training, distillation, fine-tuning.

python -m benchmarks.train [--sizes=Tiny,Mini,Small] [--jobs=mlm,distil,fine-tune]

All have the same tokens, sizes and precision (float32), dropout 0.1, and AdamW with clipping.
Pre-training is measured on full rows of 128 tokens. If PD_JAX_DATA names the development data,
distillation is measured on IMDb sentences and fine-tuning on SST-2, at their own lengths; otherwise
on full rows. The processes of ours and of tuned torch keep freed memory (`pd_jax.allocation`);
stock's do not.
"""

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import material, side_by_side, theirs
from benchmarks.side_by_side import Case
from configs import common
from pd_jax import config as config_lib
from pd_jax.data.feed.batches import make_feed
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.records.dataset import Dataset

BATCH = 32
STEPS = {"Tiny": 8, "Mini": 4, "Small": 2}
"""Steps on full rows in one repetition: a few seconds' worth."""
STOCK_SHARE = 4
"""Stock does only this share of the rows that the others do, and is compared by its rate."""
WINDOW = 64 * BATCH
LENGTHS = common.lengths(material.LENGTH)
REAL = {"distil": "IMDb", "fine-tune": "SST-2"}

Made = tuple[Callable[[], Any], float]


@dataclasses.dataclass(frozen=True)
class Work:
    """One comparison's job, size and, for real sentences, the folder of records and teacher."""

    job: str
    size: str
    records: str | None = None
    logits: str | None = None

    @property
    def steps(self) -> int:
        """Steps of full rows in a repetition."""
        return STEPS.get(self.size, 1)


def make_ours(work: Work) -> Made:
    """Returns our training over the work, and the examples in it."""
    from benchmarks import ours
    from pd_jax.allocation import keep_memory

    keep_memory()
    trainer = ours.Trainer(ours.make_objective(work.job, material.shape(work.size)))
    if work.records is None:
        batches = full_batches(work)
        return lambda: trainer.train(batches), BATCH * len(batches)
    dataset = Dataset.open(work.records)
    stores = [[LogitStore.open(work.logits)]] if work.logits else []
    settings = config_lib.Data(records=work.records, batch=BATCH, lengths=LENGTHS)

    def train() -> None:
        feed = make_feed(
            [dataset],
            settings,
            stores=stores,
            seed=0,
            first_step=0,
            steps=WINDOW // BATCH,
            process_index=0,
            process_count=1,
            prefetch=4,
        )
        trainer.train(feed)

    return train, WINDOW


def make_theirs(work: Work, style: theirs.Style) -> Made:
    """Returns a torch user's training over the work, and the examples in it."""
    theirs.tune_memory(tuned=style.tuned)
    trainer = theirs.Trainer(work.job, material.shape(work.size), style)
    if work.records is None:
        batches = full_batches(work)
        if not style.tuned:
            batches = batches[: max(1, len(batches) // STOCK_SHARE)]
        if work.job == "mlm":
            given = theirs.mlm_batches(batches, seed=0)
        else:
            given = list(_rows_of(batches).batches(BATCH, order="random"))
        return lambda: trainer.train(given), BATCH * len(given)
    dataset = Dataset.open(work.records)
    gathered = dataset.gather(np.arange(len(dataset) if style.tuned else WINDOW // STOCK_SHARE))
    tokens = np.split(gathered.tokens, np.cumsum(gathered.lengths)[:-1])
    labels = np.zeros(len(tokens), np.int32) if gathered.labels is None else gathered.labels
    teacher = np.zeros((len(tokens), len(material.LABELS)), np.float32)
    if work.logits:
        store = LogitStore.open(work.logits)
        teacher = store.read(np.arange(len(tokens)), gathered.example_ids)["logits"]
    rows = theirs.Rows(tokens, labels, teacher)
    order: theirs.Order = "grouped" if style.tuned else "random"
    return lambda: trainer.train(rows.batches(BATCH, order=order)), len(tokens)


def full_batches(work: Work) -> list[dict[str, np.ndarray]]:
    """Returns a repetition's batches of full rows, the same for every peer."""
    batches = [material.fixed_batch(BATCH, seed=seed) for seed in range(work.steps)]
    if work.job != "distil":
        return batches
    generator = np.random.default_rng(0)
    shape = (BATCH, len(material.LABELS))
    return [
        {**batch, "teacher_logits": generator.normal(size=shape).astype(np.float32)}
        for batch in batches
    ]


def _rows_of(batches: Sequence[dict[str, np.ndarray]]) -> theirs.Rows:
    outputs = len(material.LABELS)
    none = np.zeros((BATCH, outputs), np.float32)
    return theirs.Rows(
        [row for batch in batches for row in batch["input_ids"]],
        np.concatenate([batch["label"] for batch in batches]),
        np.concatenate([batch.get("teacher_logits", none) for batch in batches]),
    )


def make_case(work: Work) -> Case:
    """Returns the comparison of all peers on the work, each in a process of its own."""
    from benchmarks import ours

    peers = [
        side_by_side.apart(side_by_side.OURS, make_ours, work),
        *(
            side_by_side.apart_or_skipped(style.name, make_theirs, work, style)
            for style in theirs.STYLES
        ),
    ]
    facts: dict[str, Any] = {"batch": BATCH}
    if work.records is not None:
        lengths = Dataset.open(work.records).lengths
        facts |= {"mean_tokens": round(float(lengths.mean()), 1), "longest": int(lengths.max())}
        return Case(f"{work.job}, {work.size}, {REAL[work.job]}", "examples", peers, facts)
    flops = ours.make_objective(work.job, material.shape(work.size)).flops(1, material.LENGTH)
    facts |= {"tokens": material.LENGTH, "flops_per_example": flops}
    return Case(f"{work.job}, {work.size}, {material.LENGTH} tokens", "examples", peers, facts)


def cases(jobs: Sequence[str], sizes: Sequence[str]) -> Iterator[Case]:
    """Yields the comparisons one at a time, each with models of its own."""
    data = material.data_folder()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for job in jobs:
            files: dict[str, str] = {}
            if job in REAL and data is not None:
                dataset = material.real_dataset(REAL[job], WINDOW, folder=folder, data=data)
                files["records"] = str(dataset.folder)
                if job == "distil":
                    files["logits"] = str(folder / "logits")
                    material.write_random_logits(dataset, folder / "logits", seed=0)
            for size in sizes:
                yield make_case(Work(job, size, **files))


def _parser():
    parser = side_by_side.arguments(__doc__ or "", "train", repetitions=7)
    parser.add_argument("--sizes", default=",".join(STEPS))
    parser.add_argument("--jobs", default="mlm,distil,fine-tune")
    return parser


def main() -> int:
    """Returns 0 after the results are written."""
    options = _parser().parse_args()
    side_by_side.run(
        "Training",
        cases(options.jobs.split(","), options.sizes.split(",")),
        repetitions=options.repetitions,
        output=options.output,
        command=side_by_side.command_line("train"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
