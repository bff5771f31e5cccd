"""Training steps beside transformers on PyTorch: pre-training, distillation and fine-tuning.

python -m benchmarks.train [--sizes=Tiny,Mini,Small] [--jobs=mlm,distil,fine-tune]

Same tokens, sizes and precision (float32), dropout 0.1, AdamW with clipping. Pre-training is
measured on full rows of 128 tokens; distillation on IMDb sentences and fine-tuning on SST-2 at the
lengths that they have, where PD_JAX_DATA names the development data, and on full rows elsewhere.
"""

import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import material, ours, side_by_side, theirs
from benchmarks.side_by_side import Case, Peer, Skipped
from pd_jax import config as config_lib
from pd_jax.data.feed import make_feed
from pd_jax.data.logits import LogitStore
from pd_jax.models.flops import step_flops
from pd_jax.objectives.mlm import predictions_per_row

BATCH = 32
STEPS = {"Tiny": 8, "Mini": 4, "Small": 2}
"""Steps on full rows in one repetition: about two seconds' worth."""
STOCK_SHARE = 4
"""At real lengths stock, which pads all to 128, does this part of the rows the others do."""
WINDOW = 64 * BATCH
LENGTHS = tuple(range(8, material.LENGTH + 1, 8))
REAL = {"distil": "IMDb", "fine-tune": "SST-2"}


def fixed_case(job: str, size: str) -> Case:
    """Returns the comparison on full rows of 128 tokens."""
    shape, steps = material.shape(size), STEPS.get(size, 1)
    batches = [material.fixed_batch(BATCH, seed=seed) for seed in range(steps)]
    logits = np.random.default_rng(0).normal(size=(BATCH, len(material.LABELS)))
    if job == "distil":
        batches = [{**batch, "teacher_logits": logits.astype(np.float32)} for batch in batches]
    mine = ours.Trainer(ours.make_objective(job, shape))
    peers: list[Peer | Skipped] = [
        Peer(side_by_side.OURS, lambda: mine.train(batches), BATCH * steps)
    ]
    if missing := theirs.available():
        peers += [Skipped(style.name, missing) for style in theirs.STYLES]
    else:
        peers += _fixed_peers(job, size, batches)
    predictions = predictions_per_row(material.LENGTH, 0.15) if job == "mlm" else 0
    outputs = 0 if predictions else len(material.LABELS)
    flops = step_flops(
        shape, rows=BATCH, length=material.LENGTH, predictions=predictions, outputs=outputs
    )
    facts = {"batch": BATCH, "length": material.LENGTH, "flops_per_example": flops / BATCH}
    return Case(f"{job}, {size}, length {material.LENGTH}", "examples", peers, facts)


def _fixed_peers(job: str, size: str, batches: Sequence[dict[str, np.ndarray]]) -> Iterator[Peer]:
    if job == "mlm":
        given = theirs.mlm_batches(batches, seed=0)
    else:
        logits = np.stack([batch.get("teacher_logits", np.zeros((BATCH, 2))) for batch in batches])
        rows = theirs.Rows(
            [row for batch in batches for row in batch["input_ids"]],
            np.concatenate([batch["label"] for batch in batches]),
            logits.reshape(-1, len(material.LABELS)).astype(np.float32),
        )
        given = list(rows.batches(BATCH, grouped=False))
    for style in theirs.STYLES:
        trainer = theirs.Trainer(job, material.shape(size), style)
        yield Peer(style.name, lambda trainer=trainer: trainer.train(given), BATCH * len(given))


def real_case(job: str, size: str, data: pathlib.Path, folder: pathlib.Path) -> Case:
    """Returns the comparison on one window of real sentences, each peer with its own padding."""
    shape, text = material.shape(size), REAL[job]
    dataset = material.real_dataset(text, WINDOW, folder=folder / size, data=data)
    store = folder / size / f"{text} logits"
    teacher = material.write_random_logits(dataset, store, seed=0)
    stores = [[LogitStore.open(store)]] if job == "distil" else []
    settings = config_lib.Data(records=str(dataset.folder), batch=BATCH, lengths=LENGTHS)
    mine = ours.Trainer(ours.make_objective(job, shape))

    def feed() -> Iterator[dict[str, np.ndarray]]:
        return make_feed(
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

    peers: list[Peer | Skipped] = [Peer(side_by_side.OURS, lambda: mine.train(feed()), WINDOW)]
    if missing := theirs.available():
        peers += [Skipped(style.name, missing) for style in theirs.STYLES]
    else:
        peers += _real_peers(job, size, dataset, teacher)
    facts = {
        "batch": BATCH,
        "rows": len(dataset),
        "mean_tokens": round(float(dataset.lengths.mean()), 1),
        "longest": int(dataset.lengths.max()),
    }
    return Case(f"{job}, {size}, {text} sentences", "examples", peers, facts)


def _real_peers(job: str, size: str, dataset, teacher: np.ndarray) -> Iterator[Peer]:
    gathered = dataset.gather(np.arange(len(dataset)))
    tokens = np.split(gathered.tokens, np.cumsum(gathered.lengths)[:-1])
    labels = gathered.labels if gathered.labels is not None else np.zeros(len(dataset), np.int32)
    for style in theirs.STYLES:
        part = len(dataset) if style.tuned else len(dataset) // STOCK_SHARE
        rows = theirs.Rows(tokens[:part], labels[:part], teacher[:part])
        trainer = theirs.Trainer(job, material.shape(size), style)

        def train(rows=rows, trainer=trainer, style=style) -> None:
            trainer.train(rows.batches(BATCH, grouped=style.tuned))

        yield Peer(style.name, train, part)


def cases(jobs: Sequence[str], sizes: Sequence[str]) -> Iterator[Case]:
    """Yields the comparisons one at a time, each with models of its own."""
    data = material.data_folder()
    for size in sizes:
        for job in jobs:
            if job not in REAL or data is None:
                yield fixed_case(job, size)
                continue
            with tempfile.TemporaryDirectory() as folder:
                yield real_case(job, size, data, pathlib.Path(folder))


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
