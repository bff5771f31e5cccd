"""Writes a teacher's logits over a dataset as a logit store.

python -m pd_jax.tools.label --teacher MODEL --records FOLDER --output FOLDER

MODEL is any Hugging Face folder of a sequence classifier. A BERT runs in JAX, over all devices,
and reads the records' tokens if they are of its own vocabulary; every other architecture runs in
torch (extra `[hf]`). A teacher with another tokenizer is given the rows' texts, which are read
again from what the records were built from, or from --input. An interrupted labelling is resumed
by repeating the command.

With --top-k MODEL is a masked language model. Each row is masked once, and the K likeliest tokens
at each masked place are stored in 16 + 8 K bytes, so a student can mask it the same way.
"""

import argparse
import sys
import typing
from collections.abc import Sequence

from etils import epath

from pd_jax import allocation, compilation, files, locks
from pd_jax import config as config_lib
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import ConfigError, WeightsError
from pd_jax.models.weights import hf
from pd_jax.parallel import distributed
from pd_jax.parallel.mesh import make_mesh
from pd_jax.progress import warn
from pd_jax.stages.label import label
from pd_jax.stages.teachers import reads_tokens
from pd_jax.tools import command, options

_LONGEST = 512
"""Tokens to which texts are cut for a teacher that does not say how many it can read."""
_MASKING = ("temperature", "mask_rate", "whole_word", "seed")
"""The options that --top-k takes, as `config.MaskedTokens` names them."""
_OF_CLASSIFIERS = ("labels", "states", "input")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pd_jax.tools.label", description=__doc__)
    parser.add_argument(
        "--teacher", required=True, help="folder of a classifier, of any architecture"
    )
    parser.add_argument("--records", required=True, help="folder of the dataset to label")
    parser.add_argument("--output", required=True, help="folder of the logit store to write")
    parser.add_argument(
        "--batch", type=options.at_least(1), default=256, help="rows per step, over all devices"
    )
    parser.add_argument(
        "--lengths",
        type=options.numbers(1),
        default=(),
        help="padded lengths a batch may have; rows longer than the last are cut (default: up to "
        "the longest row, or to what the teacher can read)",
    )
    parser.add_argument(
        "--labels",
        type=options.names,
        default=(),
        help="names of outputs called LABEL_0, LABEL_1, ...",
    )
    parser.add_argument(
        "--states",
        type=options.numbers(0),
        default=(),
        help="layers, from 0, whose first token's state is stored too",
    )
    texts = parser.add_argument_group(
        "texts, for a teacher with another vocabulary (default: what the records were built from)"
    )
    texts.add_argument("--input", nargs="+", metavar="PATH", help="files or patterns")
    texts.add_argument("--text-column", metavar="NAME", help="column of texts (default: text)")
    texts.add_argument("--pair-column", metavar="NAME", help="column of second texts")
    language = parser.add_argument_group("a masked language model as teacher (lm_distill)")
    add, usual = language.add_argument, config_lib.MaskedTokens()
    add("--top-k", type=options.at_least(1), metavar="K", help="tokens kept at each masked place")
    add("--temperature", type=float, help=f"default: {usual.temperature}")
    add("--mask-rate", type=float, help=f"default: {usual.mask_rate}")
    add("--whole-word", action="store_true", default=None, help="mask whole words")
    add("--seed", type=options.at_least(0), help=f"for the masks (default: {usual.seed})")
    parser.add_argument("--dtype", choices=typing.get_args(config_lib.Precision), default="float32")
    parser.add_argument("--distributed", choices=("auto", "on", "off"), default="auto")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Labels a dataset; returns the exit status."""
    args = _parser().parse_args(argv)
    options.check_used(args, "input", "text_column", "pair_column")
    options.check_used(args, "top_k", *_MASKING)
    for name in _OF_CLASSIFIERS if args.top_k else ():
        if getattr(args, name):
            raise ConfigError(
                f"--{name} is for classifiers, and --top-k for a masked language model; give one"
            )
    options.check_apart(args.teacher, args.output, kind="teacher")
    options.check_apart(args.records, args.output, kind="dataset")
    allocation.keep_memory()
    distributed.initialise(args.distributed)
    compilation.use_cache()
    dataset = Dataset.open(args.records)
    own = bool(args.top_k) or reads_tokens(args.teacher, dataset)
    if own and args.input:
        raise ConfigError(
            f"--input has no effect: {args.teacher} has the vocabulary of {args.records} and reads"
            " their tokens; leave it out"
        )
    longest = int(dataset.lengths.max(initial=1)) if own else None
    lengths = args.lengths or _lengths(longest, args.teacher)
    with options.faults():
        stage = _stage(args, lengths)
    if distributed.is_writer():
        print(f"labelling {len(dataset):,} rows of {args.records} with {args.teacher}", flush=True)
    mesh = make_mesh(config_lib.Mesh())
    one_writer = locks.held(
        f"{args.output}/.lock",
        f"the logit store in {args.output}",
        writer=distributed.is_writer(),
        agree=distributed.agree,
    )
    with distributed.leaving_with_the_lost(), one_writer:
        made = label(stage, epath.Path(args.output), mesh, title="labelling", warn=warn)
    if distributed.is_writer():
        print(f"logits of {made.rows:,} rows x {made.outputs} outputs in {args.output}")
    return 0


def _lengths(longest: int | None, teacher: str) -> tuple[int, ...]:
    """Returns padded lengths up to the longest row, or to what a teacher can read: of a BERT, the
    longest rows that it was trained on.

    `longest` is None where the teacher reads texts, of which only it knows how long they are.
    """
    path = epath.Path(teacher) / hf.CONFIG_FILE
    declared = files.read_object(path, WeightsError) if path.exists() else {}
    is_bert = bool(declared) and hf.is_bert(teacher)
    positions = hf.reads(teacher) if is_bert else declared.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        longest = longest or _LONGEST
    elif longest is None:
        # RoBERTa's positions begin behind its padding's id: of its 514, 512 can be read.
        longest = positions if is_bert else positions // 8 * 8 or positions
    else:
        longest = min(longest, positions)
    return options.padded_lengths(longest)


def _stage(args: argparse.Namespace, lengths: tuple[int, ...]) -> config_lib.LabelStage:
    source = language = None
    if args.input:
        source = config_lib.Source(
            path=tuple(args.input), text=args.text_column or "text", pair=args.pair_column
        )
    if args.top_k:
        given = {name: getattr(args, name) for name in _MASKING}
        given = {name: value for name, value in given.items() if value is not None}
        language = config_lib.MaskedTokens(top_k=args.top_k, **given)
    return config_lib.LabelStage(
        teacher=args.teacher,
        records=args.records,
        batch=args.batch,
        lengths=lengths,
        dtype=args.dtype,
        labels=args.labels,
        states=args.states,
        language=language,
        source=source,
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
