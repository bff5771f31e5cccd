"""Imports a BERT's weights from a Hugging Face folder or a TF1 checkpoint to a model folder.

python -m pd_jax.tools.import_weights --source uncased_L-4_H-256_A-4 --output models/mini
python -m pd_jax.tools.import_weights --source hf_folder --output models/teacher

The result is what `init.source` of a config, `tools.export` and `tools.predict` read.
"""

import argparse
import sys
from collections.abc import Sequence

from etils import epath

from pd_jax import files
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, WeightsError
from pd_jax.models.weights import hf, layout, tf1
from pd_jax.tools import command, options
from pd_jax.workdir import DONE, OUTPUT

_HEADS = ("pooler", "mlm", "nsp", "classifier")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after the complete model was read and written."""
    arguments = _parser().parse_args(argv)
    source, output = epath.Path(arguments.source), epath.Path(arguments.output)
    if (source / DONE).exists():  # a stage of ours: its trained model is inside
        source = source / OUTPUT["train"]
    options.check_apart(source, output)
    is_tf1 = _is_tf1(source)
    if arguments.gelu and not is_tf1:
        raise ConfigError(
            f"--gelu is for TF1 checkpoints, and {source} has a config that says it; leave it out"
        )
    kind = "TF1 checkpoint" if is_tf1 else "Hugging Face folder"
    print(f"importing {source}, a {kind}, to {output}", file=sys.stderr)
    if is_tf1:
        model, unused = tf1.load(source, gelu=arguments.gelu or "tanh")
    else:
        model, unused = hf.load(source), ()
    tokenizer = load_tokenizer(
        arguments.tokenizer or (source if source.is_dir() else source.parent)
    )
    padding = model.config.vocab_size - tokenizer.vocab_size
    if padding < 0:
        raise WeightsError(
            f"the tokenizer has {tokenizer.vocab_size} entries, but the model has "
            f"{model.config.vocab_size}; give the tokenizer it was trained with as --tokenizer"
        )
    fingerprint = hf.save(
        output,
        model.params,
        model.config,
        labels=model.labels,
        task=model.task,
        longest=model.longest,
        add=tokenizer.save,
    )
    _print_tensors(model, unused)
    if padding:
        print(
            f"unused  {padding} of {model.config.vocab_size} word embeddings (the tokenizer has "
            f"{tokenizer.vocab_size} entries)"
        )
    print(f"imported to {output}: fingerprint {fingerprint}")
    return 0


def _is_tf1(source: epath.Path) -> bool:
    """Returns whether a source is a TF1 checkpoint by its name, or the folder of one."""
    if source.is_dir():
        converted = (source / hf.CONFIG_FILE).exists() and not files.matching(source, "*.index")
        return (source / tf1.CONFIG_FILE).exists() and not converted
    return source.suffix in (".ckpt", ".index") or epath.Path(f"{source}.index").exists()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.import_weights",
        description=(
            "Read a BERT's weights from a Hugging Face folder (model.safetensors, or "
            "pytorch_model.bin without running what is pickled in it) or from a TF1 checkpoint of "
            "google-research/bert, and write them as a model folder."
        ),
    )
    parser.add_argument(
        "--source",
        required=True,
        help=(
            "a Hugging Face folder, an unpacked TF1 release, .../bert_model.ckpt, "
            ".../model.ckpt-343, or the folder of a finished training stage"
        ),
    )
    parser.add_argument("--output", required=True, help="the model folder to write")
    parser.add_argument(
        "--tokenizer", help="vocab.txt, tokenizer.json or .model (default: beside the weights)"
    )
    parser.add_argument(
        "--gelu",
        choices=("tanh", "exact"),
        help=(
            "how a TF1 checkpoint computes: tanh as google-research/bert's code does (default), "
            "or exact as the ports of its checkpoints on Hugging Face do"
        ),
    )
    return parser


def _print_tensors(model: hf.SavedModel, unused: Sequence[str]) -> None:
    """Prints every tensor that was loaded, the heads that are absent, and what was left out."""
    for path, value in layout.flatten(model.params).items():
        print(f"loaded  {path}  {value.shape}")
    for head in _HEADS:
        if head not in {*model.params, *model.params["bert"]}:
            print(f"absent  {head} (a model that starts from this one and needs it gets a new one)")
    for name in unused:
        print(f"unused  {name} (of the optimiser)")


if __name__ == "__main__":
    sys.exit(command.run(main))
