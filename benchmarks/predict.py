"""Sentences to labels, including tokenising, against transformers' `pipeline`.

python -m benchmarks.predict [--sizes=Tiny,Mini,Small]

Ours is what `pd_jax.tools.predict` does with a file. Stock calls the pipeline on the list of
sentences, as its documentation does: one sentence at a time. Tuned passes batches of sentences
sorted by length. All use float32 and the same weights. Every repetition has its own sentences,
because ours remembers how words are split. The processes of ours and of tuned torch keep freed
memory (`pd_jax.allocation`); stock's do not.
"""

import pathlib
import sys
import tempfile
from collections.abc import Iterator

from benchmarks import side_by_side, texts, theirs
from benchmarks.side_by_side import Case
from benchmarks.texts import BATCH, ROWS, STOCK_SHARE, Work


def make_ours(work: Work, runs: int):
    """Returns our labelling of one run's sentences, and how many there are."""
    from pd_jax.allocation import keep_memory
    from pd_jax.stages.classifier import load_classifier
    from pd_jax.stages.predict import make_predict_rows

    keep_memory()
    model, tokenizer = load_classifier(work.model)
    # One input, from which each run takes its windows. One run more, as a window is made ahead.
    predict = make_predict_rows(model, tokenizer)
    windows = predict(texts.sentences(work.text, (runs + 1) * ROWS))
    size = len(next(windows).rows)

    def label() -> None:
        for _ in range(ROWS // size):
            next(windows)

    return label, ROWS // size * size


def make_theirs(work: Work, runs: int, tuned: bool):
    """Returns a pipeline's labelling of one run's sentences, and how many there are."""
    import transformers

    theirs.tune_memory(tuned=tuned)
    label = transformers.pipeline("text-classification", model=work.model, device="cpu")
    lines = [row.text for row in texts.sentences(work.text, runs * ROWS)]
    begins = iter(range(0, len(lines), ROWS))
    count = ROWS if tuned else ROWS // STOCK_SHARE

    def run() -> None:
        begin = next(begins)
        chosen = lines[begin : begin + count]
        if tuned:
            label(sorted(chosen, key=len), batch_size=BATCH, truncation=True)
        else:
            label(chosen, truncation=True)

    return run, count


def cases(sizes: list[str], runs: int) -> Iterator[Case]:
    """Yields the comparisons, one at a time, of peers that can run that often."""
    with tempfile.TemporaryDirectory() as folder:
        for work in texts.works(("SST-2", "IMDb"), sizes, pathlib.Path(folder)):
            peers = [
                side_by_side.apart(side_by_side.OURS, make_ours, work, runs),
                *(
                    side_by_side.apart_or_skipped(name, make_theirs, work, runs, tuned)
                    for name, tuned in (
                        ("transformers, stock", False),
                        ("transformers, tuned", True),
                    )
                ),
            ]
            yield Case(f"predict, {work.size}, {work.text}", "sentences", peers)


def _parser():
    parser = side_by_side.arguments(__doc__ or "", "predict", repetitions=5)
    parser.add_argument("--sizes", default=",".join(texts.SIZES))
    return parser


def main() -> int:
    """Returns 0 after the results are written."""
    options = _parser().parse_args()
    side_by_side.run(
        "Predicting",
        cases(options.sizes.split(","), options.repetitions + side_by_side.WARM_UP),
        repetitions=options.repetitions,
        output=options.output,
        command=side_by_side.command_line("predict"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
