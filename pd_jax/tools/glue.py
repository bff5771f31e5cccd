"""Answers GLUE's test sets with trained models, as the zip that gluebenchmark.com scores.

python -m pd_jax.tools.glue --data glue --model rte=runs/rte/stages/model-1f0c/model ... \
    --output submission.zip

The folder holds GLUE's zips as they unpack (CoLA/test.tsv, MNLI/test_matched.tsv, ...,
diagnostic/diagnostic.tsv). The server accepts only complete submissions: --fill writes one
constant answer into the files of tasks for which no model is named.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from etils import epath

from pd_jax.allocation import keep_memory
from pd_jax.compilation import use_cache
from pd_jax.config import Source
from pd_jax.data.text import corpora
from pd_jax.data.tokenizers.tokenizer import Tokenizer
from pd_jax.errors import ConfigError, SourceError, did_you_mean
from pd_jax.evaluation import glue
from pd_jax.models.weights import hf
from pd_jax.progress import Progress, warn
from pd_jax.stages.classifier import (
    beyond_training,
    check_pairs,
    check_positions,
    load_classifier,
)
from pd_jax.stages.predict import make_predict_rows
from pd_jax.tools import command, options


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after the submission was written."""
    arguments = _parser().parse_args(argv)
    models = _models(arguments.model)
    missing = [task for task in glue.TASKS if task not in models]
    if missing and not arguments.fill:
        raise ConfigError(
            f"no model for {', '.join(missing)}; name one for each as --model TASK=FOLDER, or add "
            "--fill to write one constant answer"
        )
    wanted = {name: item for name, item in glue.TEST_SETS.items() if item.task in models}
    data = epath.Path(arguments.data)
    read = [data / test_set.path for test_set in wanted.values()]
    options.check_unread(arguments.output, [*read, *models.values()])
    options.check_output(arguments.output)
    keep_memory()
    use_cache()
    classifiers = {task: load_classifier(path) for task, path in models.items()}
    for test_set in wanted.values():
        _check(test_set, classifiers[test_set.task][0], models[test_set.task])
    for task, (model, _) in classifiers.items():
        check_positions(models[task], model.config.positions, arguments.max_length or 0)
    rows = {name: _rows(data, item) for name, item in wanted.items()}
    print(f"answering {', '.join(rows)} with {len(models)} models", flush=True)
    answers = {
        name: _answers(
            test_set, models[test_set.task], *classifiers[test_set.task], rows[name], arguments
        )
        if name in rows
        else test_set.filler()
        for name, test_set in glue.TEST_SETS.items()
    }
    glue.write_submission(arguments.output, answers)
    filled = [name for name in glue.TEST_SETS if name not in rows]
    constant = f"; one constant answer in {', '.join(filled)}" if filled else ""
    print(f"submission of {len(answers)} files in {arguments.output}{constant}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.glue",
        description="Answer GLUE's test sets with trained models, as the server expects them.",
    )
    parser.add_argument("--data", required=True, help="the folder of the unpacked GLUE zips")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="TASK=FOLDER",
        help=f"a model folder for a task, once per task: {', '.join(glue.TASKS)}",
    )
    parser.add_argument("--output", required=True, help="the zip to write")
    parser.add_argument(
        "--fill", action="store_true", help="write one constant answer for tasks without a model"
    )
    parser.add_argument(
        "--max-length",
        type=options.at_least(8),
        help="cut texts to this many tokens (default: as the rows that a model was trained on)",
    )
    parser.add_argument(
        "--batch", type=options.at_least(1), default=64, help="texts at once (default: 64)"
    )
    return parser


def _models(given: Sequence[str]) -> dict[str, str]:
    """Returns task -> model folder."""
    found: dict[str, str] = {}
    for part in given:
        task, folder = options.named(
            part, option="--model", write="TASK=FOLDER, such as rte=models/rte"
        )
        if task not in glue.TASKS:
            raise ConfigError(
                f"--model {part}: {task!r} is not a GLUE task ({', '.join(glue.TASKS)})"
                + did_you_mean(task, glue.TASKS)
            )
        if task in found:
            raise ConfigError(f"--model names {task} twice ({found[task]} and {folder}); name one")
        found[task] = folder
    return found


def _check(test_set: glue.TestSet, model: hf.SavedModel, folder: str) -> None:
    """Raises WeightsError, or for pairs ConfigError, where a model cannot answer, before others
    have done their work.
    """
    check_pairs(model, pairs=test_set.pair is not None, name=folder)
    outputs = model.params["classifier"]["bias"].shape[0]
    test_set.predictions(np.zeros((0, outputs)), model.labels)


def _rows(folder: epath.Path, test_set: glue.TestSet) -> list[corpora.Row]:
    """Returns a test set's rows; raises SourceError where their number is wrong."""
    path = str(folder / test_set.path)
    rows = list(corpora.rows(Source(path=path, text=test_set.text, pair=test_set.pair)))
    if len(rows) != test_set.rows:
        raise SourceError(
            f"{path} has {len(rows):,} rows, but GLUE's test set has {test_set.rows:,}; use the "
            "file as it was released"
        )
    return rows


def _answers(
    test_set: glue.TestSet,
    folder: str,
    model: hf.SavedModel,
    tokenizer: Tokenizer,
    rows: Sequence[corpora.Row],
    arguments: argparse.Namespace,
) -> list[str]:
    """Returns the model's answer to every row, in the server's words."""
    found, cut, longest = [], 0, 0
    with Progress(test_set.path, len(rows), unit="texts") as progress:
        predict = make_predict_rows(
            model, tokenizer, batch=arguments.batch, max_length=arguments.max_length
        )
        for window in predict(rows):
            found.append(window.logits)
            cut, longest = cut + window.read.cut, max(longest, window.read.longest)
            progress.advance(len(window.rows))
    if told := beyond_training(folder, longest):
        warn(told)
    if cut:
        warn(f"{cut:,} texts of {test_set.path} were cut at the last token that fits")
    return test_set.predictions(np.concatenate(found), model.labels)


if __name__ == "__main__":
    sys.exit(command.run(main))
