"""Sentences to labels, tokenising included, beside transformers' `pipeline`.

python -m benchmarks.predict [--sizes=Tiny,Mini,Small]

Ours is what `pd_jax.tools.predict` does with a file. Stock calls the pipeline on the
list of sentences, as its documentation does: one sentence at a time. Tuned gives it batches of
sentences sorted by length. Float32, the same weights.
"""

import itertools
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from benchmarks import side_by_side, texts
from benchmarks.side_by_side import Case
from benchmarks.texts import BATCH, ROWS, STOCK_SHARE, Work


def make_ours(work: Work):
    """Returns our labelling of the sentences, and how many there are."""
    from pd_jax.allocation import keep_memory
    from pd_jax.stages.predict import load_classifier, predict_rows

    keep_memory()
    model, tokenizer = load_classifier(work.model)
    # An endless input, of which each repetition takes as many windows as hold every sentence once.
    rows = itertools.cycle(texts.sentences(work.text, ROWS))
    windows = predict_rows(model, tokenizer, rows)
    size = len(next(windows).rows)

    def label() -> None:
        for _ in range(ROWS // size):
            next(windows)

    return label, ROWS // size * size


def make_theirs(work: Work, tuned: bool):
    """Returns a pipeline's labelling of the sentences, and how many there are."""
    import transformers

    label = transformers.pipeline("text-classification", model=work.model, device="cpu")
    found = texts.sentences(work.text, ROWS if tuned else ROWS // STOCK_SHARE)
    lines = [row.text for row in found]
    if not tuned:
        return lambda: label(lines, truncation=True), len(lines)
    lines.sort(key=len)
    return lambda: label(lines, batch_size=BATCH, truncation=True), len(lines)


def cases(sizes: list[str]) -> Iterator[Case]:
    """Yields the comparisons, one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for work in texts.works(("SST-2", "IMDb"), sizes, pathlib.Path(folder)):
            peers = [
                side_by_side.apart(side_by_side.OURS, make_ours, work),
                *(
                    side_by_side.apart_or_skipped(name, make_theirs, work, tuned)
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
        cases(options.sizes.split(",")),
        repetitions=options.repetitions,
        output=options.output,
        command=side_by_side.command_line("predict"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
