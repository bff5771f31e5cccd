"""Compares models on a labelled dataset: size, speed, scores, agreement, calibration.

python -m pd_jax.tools.compare --model Teacher=FOLDER --model Student=FOLDER --records FOLDER \
    [--labels Teacher=no,yes] [--programs jax onnx onnx_int8] [--output comparison.json]

The first model is the one whose answers the others' are compared with.
"""

import argparse
import sys
import typing
from collections.abc import Sequence

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.compilation import use_cache
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import ConfigError
from pd_jax.models.weights import hf
from pd_jax.progress import warn
from pd_jax.report.models import comparison_grid
from pd_jax.stages.compare import compare_models
from pd_jax.tools import command, options


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after every model was measured."""
    arguments = _parser().parse_args(argv)
    models = _models(arguments.model, arguments.labels)
    options.check_unread(arguments.output, [arguments.records, *(one.model for one in models)])
    options.check_output(arguments.output)
    use_cache()
    with options.faults():
        stage = config_lib.CompareStage(
            models=models,
            records=arguments.records,
            programs=tuple(dict.fromkeys(arguments.programs)),
            batch=arguments.batch,
            lengths=tuple(sorted(set(arguments.lengths or _lengths(arguments)))),
        )
    print(f"comparing {len(stage.models)} models on {arguments.records}", file=sys.stderr)
    found = compare_models(stage, warn=warn)
    print(comparison_grid("", found).text())
    if arguments.output:
        files.write_json(arguments.output, {"models": [measured.as_json() for measured in found]})
        print(f"compared {len(stage.models)} models: {arguments.output}")
    else:
        print(f"compared {len(stage.models)} models")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.compare",
        description=(
            "Measure models side by side on a labelled dataset: parameters, MB, latency and "
            "throughput, scores, agreement with the first model, calibration."
        ),
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="a model folder and a name for it, once per model; the first is the teacher",
    )
    parser.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="NAME=LABEL,LABEL",
        help="names of a model's outputs, in its order, if it calls them LABEL_0, LABEL_1",
    )
    parser.add_argument("--records", required=True, help="folder of a labelled dataset")
    parser.add_argument(
        "--programs",
        nargs="+",
        choices=typing.get_args(config_lib.Program),
        default=["jax"],
        help="what runs the models (default: jax); ONNX on the CPU",
    )
    parser.add_argument("--output", help="a JSON file for the same figures")
    parser.add_argument(
        "--batch", type=options.at_least(1), default=64, help="rows at once (default: 64)"
    )
    parser.add_argument(
        "--lengths",
        type=options.at_least(8),
        nargs="+",
        help="padded lengths a batch may have; rows longer than the last are cut (default: up to "
        "the longest row, or to the longest that every model was trained on)",
    )
    return parser


def _lengths(arguments: argparse.Namespace) -> tuple[int, ...]:
    folders = [folder for _, folder in map(_folder, arguments.model)]
    reads = min(map(hf.reads, folders))
    longest = int(Dataset.open(arguments.records).lengths.max(initial=1))
    return options.padded_lengths(min(longest, reads))


def _folder(given: str) -> tuple[str, str]:
    return options.named(given, option="--model", write="NAME=FOLDER, such as Teacher=models/base")


def _models(models: Sequence[str], labels: Sequence[str]) -> tuple[config_lib.Compared, ...]:
    """Returns the models of --model, with the names of --labels for their outputs."""
    folders = list(map(_folder, models))
    named: dict[str, str] = {}
    for given in labels:
        name, outputs = options.named(
            given, option="--labels", write="NAME=LABEL,LABEL, such as Teacher=no,yes"
        )
        if name in named:
            raise ConfigError(f"--labels names {name}'s outputs twice; name them once, in order")
        named[name] = outputs
    if strange := sorted(set(named) - {name for name, _ in folders}):
        raise ConfigError(f"--labels names {strange[0]!r}, which no --model is; give its name")
    return tuple(
        config_lib.Compared(name=name, model=folder, labels=options.names(named.get(name, "")))
        for name, folder in folders
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
