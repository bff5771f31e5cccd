"""A teacher's logits over tokenised sentences, against transformers on PyTorch.

python -m benchmarks.label [--sizes=Tiny,Mini,Small]

Ours batches rows by length, as the label stage does, padded to multiples of four (`lengths` of
`common.lengths(128, step=4)`; README's config has multiples of eight). Stock pads every batch to
128, as the example scripts do; tuned sorts all rows by length and pads to the longest.
All use float32, the same weights and the same rows. The processes of ours and of tuned torch keep
freed memory (`pd_jax.allocation`); stock's do not.
"""

import pathlib
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from benchmarks import side_by_side, texts, theirs
from benchmarks.material import LABELS, LENGTH
from benchmarks.side_by_side import Case
from benchmarks.texts import BATCH, ROWS, STOCK_SHARE, Work
from configs import common
from pd_jax import config as config_lib
from pd_jax.data.feed.batches import evaluation_batches
from pd_jax.data.records.dataset import Dataset

LENGTHS = common.lengths(LENGTH, step=4)


def make_ours(work: Work):
    """Returns our labelling of all rows, and how many there are."""
    import jax

    from pd_jax.allocation import keep_memory
    from pd_jax.models.weights import hf
    from pd_jax.parallel.mesh import make_mesh
    from pd_jax.parallel.sharding import put_batch
    from pd_jax.stages.predict import make_predict

    keep_memory()
    mesh = make_mesh(config_lib.Mesh())
    predict = make_predict(hf.load(work.model), mesh, dtype="float32")
    dataset = Dataset.open(work.records)

    def label() -> np.ndarray:
        logits = np.empty((ROWS, len(LABELS)), np.float32)
        batches = evaluation_batches(dataset, batch=BATCH, lengths=LENGTHS)
        running: list[tuple[np.ndarray, jax.Array]] = []
        for batch in batches:
            rows = batch.pop("row")
            running.append((rows, predict(put_batch(batch, mesh))["logits"]))
            if len(running) > 1:  # the batch before, while this one runs
                rows, found = running.pop(0)
                logits[rows] = found
        for rows, found in running:
            logits[rows] = found
        return logits

    return label, ROWS


def make_theirs(work: Work, style: theirs.Style):
    """Returns a torch user's labelling, and how many rows it labels."""
    import torch
    import transformers

    theirs.tune_memory(tuned=style.tuned)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(work.model).eval()
    dataset = Dataset.open(work.records)
    count = ROWS if style.tuned else ROWS // STOCK_SHARE
    gathered = dataset.gather(np.arange(count))
    tokens = np.split(gathered.tokens, np.cumsum(gathered.lengths)[:-1])
    rows = theirs.Rows(tokens, np.zeros(count, np.int32), np.zeros((count, 2), np.float32))
    order: theirs.Order = "sorted" if style.tuned else "random"
    compute = torch.compile(model, dynamic=True) if style.compiled else model

    def label() -> None:
        with torch.inference_mode():
            for batch in rows.batches(BATCH, order=order):
                names = ("input_ids", "token_type_ids", "attention_mask")
                compute(**{name: batch[name] for name in names}).logits.numpy()

    return label, count


def cases(sizes: list[str]) -> Iterator[Case]:
    """Yields the comparisons, one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for work in texts.works(("SST-2", "IMDb"), sizes, pathlib.Path(folder)):
            peers = [
                side_by_side.apart(side_by_side.OURS, make_ours, work),
                *(
                    side_by_side.apart_or_skipped(style.name, make_theirs, work, style)
                    for style in theirs.STYLES
                ),
            ]
            yield Case(f"label, {work.size}, {work.text}", "rows", peers, {"batch": BATCH})


def _parser():
    parser = side_by_side.arguments(__doc__ or "", "label", repetitions=5)
    parser.add_argument("--sizes", default=",".join(texts.SIZES))
    return parser


def main() -> int:
    """Returns 0 after the results are written."""
    options = _parser().parse_args()
    side_by_side.run(
        "Labelling",
        cases(options.sizes.split(",")),
        repetitions=options.repetitions,
        output=options.output,
        command=side_by_side.command_line("label"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
