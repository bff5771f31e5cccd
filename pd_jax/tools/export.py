"""Writes a trained model in another program's format, and compares the two before it finishes.

python -m pd_jax.tools.export --model WORKDIR/stages/NAME-FINGERPRINT/model --output FOLDER
"""

import argparse
import sys
import typing
from collections.abc import Sequence

from etils import epath

from pd_jax import config as config_lib
from pd_jax.stages.export import export_model
from pd_jax.tools import command, options


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after the model was written and compared."""
    arguments = _parser().parse_args(argv)
    output = epath.Path(arguments.output)
    options.check_apart(arguments.model, output)
    with options.faults():
        stage = config_lib.ExportStage(
            model=arguments.model,
            format=arguments.format,
            int8=arguments.int8,
            licence=arguments.license,
        )
    print(f"exporting {arguments.model} as {arguments.format} to {output}", file=sys.stderr)
    for check in export_model(stage, output, name=arguments.name or output.name):
        print(check.sentence())
    # No tolerance holds for 8-bit weights: what they cost, only scores tell.
    score = (
        f"; score its 8-bit weights: python -m pd_jax.tools.compare --model int8={arguments.model} "
        "--programs jax onnx_int8 --records FOLDER"
    )
    names = ", ".join(sorted(item.name for item in output.iterdir()))
    print(f"exported to {output}: {names}{score if stage.int8 else ''}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.export",
        description=(
            "Write a model as a Hugging Face folder, as ONNX or as StableHLO (batch and length "
            "are dynamic in both), with its tokenizer and a model card."
        ),
    )
    parser.add_argument(
        "--model", required=True, help="a folder with config.json, model.safetensors, tokenizer"
    )
    parser.add_argument("--output", required=True, help="the folder to write")
    parser.add_argument("--format", choices=typing.get_args(config_lib.ExportFormat), default="hf")
    parser.add_argument(
        "--int8", action="store_true", help="with onnx: also a file with 8-bit weights"
    )
    parser.add_argument("--name", help="the model card's title (default: the output's name)")
    parser.add_argument("--license", help="the model card's licence, an SPDX name")
    return parser


if __name__ == "__main__":
    sys.exit(command.run(main))
