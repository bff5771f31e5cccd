"""Reads complete datasets and logit stores and reports every fault in them.

    python -m pd_jax.tools.verify DATASET [DATASET ...] [--logits STORE ... [--teacher MODEL]]

Checked: manifest, counts, sizes, digests, offset indexes, every checksum, every example (tokens in
the vocabulary, labels in the label set, ids), and of a store every row's id against its dataset and
every logit; stores of a dataset with faults are left out. With `--teacher`, the logits of a sample
are computed again and compared. Exits with 0 where nothing is wrong, else with 2.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from etils import epath

from pd_jax import config, processes
from pd_jax.data.feed.order import Permutation
from pd_jax.data.logits.store import LogitStore, logits_faults
from pd_jax.data.records import audit, manifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.manifest import Manifest
from pd_jax.errors import LogitsError, RecordsError
from pd_jax.progress import Progress
from pd_jax.tools import command, options
from pd_jax.workdir import OUTPUT

_SAMPLE, _SAMPLE_BATCH = 256, 32
_TOLERANCE = 1e-3
_Read = TypeVar("_Read")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where nothing is wrong; prints every fault.

    Raises:
      ConfigError: where a teacher is named, but no store, or how to compare with no teacher.
      RecordsError: where there are faults, with their number.
      LogitsError: where a store's dataset is not among those given.
    """
    arguments = _parser().parse_args(argv)
    options.check_used(arguments, "logits", "teacher")
    options.check_used(arguments, "teacher", "sample", "tolerance")
    for folder in arguments.datasets:
        _check_kind(epath.Path(folder), is_store=False)
    for folder in arguments.logits:
        _check_kind(epath.Path(folder), is_store=True)
    datasets, unread = _opened(arguments.datasets, manifest.read)
    stores, lost = _opened(arguments.logits, LogitStore.open)
    damaged = dict.fromkeys(unread, 1)
    of_stores = {
        folder: _dataset_of(store, datasets, all_read=not unread)
        for folder, store in stores.items()
    }
    for folder, found in datasets.items():
        print(f"reading {folder}: {found.rows} rows in {len(found.shards)} shards", file=sys.stderr)
        damaged[folder] = _print_faults(_dataset_faults(folder, found, workers=arguments.workers))
    wrong = len(lost)
    for folder, store in stores.items():
        of = of_stores[folder]
        if of is None or damaged[of]:
            print(f"{folder} is left out: its dataset has faults", file=sys.stderr)
        else:
            wrong += _print_faults(_store_faults(store, Dataset.open(of), arguments))
    if faults := sum(damaged.values()):
        also = f" and {wrong} in logit stores" if wrong else ""
        raise RecordsError(
            f"{faults} faults{also}; restore the files named above or build them again"
        )
    if wrong:
        raise LogitsError(f"{wrong} faults; restore the files named above or label again")
    rows = _counted(sum(found.rows for found in datasets.values()), "row")
    read = _counted(len(datasets), "dataset")
    read += f" and {_counted(len(stores), 'logit store')}" if stores else ""
    print(f"no fault in {rows} of {read}: {', '.join(arguments.datasets)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.verify",
        description="Reads complete datasets and logit stores and reports every fault.",
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="folder of a dataset")
    parser.add_argument(
        "--logits", nargs="+", default=[], metavar="STORE", help="logit stores of these datasets"
    )
    parser.add_argument("--teacher", metavar="MODEL", help="folder of the teacher of --logits")
    parser.add_argument(
        "--sample",
        type=options.at_least(1),
        help=f"rows to compute again with --teacher (default: {_SAMPLE})",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference of a logit from the --teacher's (default: "
        f"{_TOLERANCE}, for float32 stores)",
    )
    parser.add_argument(
        "--workers",
        type=options.at_least(1),
        default=len(processes.available_cores()),
        help="processes, each reading a shard at a time (default: all cores)",
    )
    return parser


def _counted(number: int, name: str) -> str:
    """Returns a number of things with their name."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _print_faults(faults: Iterator[str]) -> int:
    """Returns how many faults there were, after printing each."""
    count = 0
    for fault in faults:
        print(f"fault: {fault}", flush=True)
        count += 1
    return count


def _dataset_faults(folder: epath.Path, found: Manifest, workers: int) -> Iterator[str]:
    """Yields the faults of a dataset's shards, in order of shard."""
    with Progress(f"verifying {found.name}", found.rows) as progress:
        yield from audit.dataset_faults(
            folder, found, workers=workers, shown=lambda shard: progress.advance(shard.rows)
        )


def _check_kind(folder: epath.Path, *, is_store: bool) -> None:
    """Raises RecordsError where a folder has no manifest, or one of the other kind."""
    path = folder / manifest.FILE
    if not path.exists():
        inside = folder / (OUTPUT["label"] if is_store else OUTPUT["records"])
        named = inside if (inside / manifest.FILE).exists() else "the folder of a finished build"
        raise RecordsError(f"{path} does not exist; name {named}")
    other = "pd_jax records" if is_store else "pd_jax logits"
    if manifest.format_of(path).startswith(other):
        kind, no = ("dataset", "logit store") if is_store else ("logit store", "dataset")
        raise RecordsError(
            f"{folder} is a {kind}, not a {no}; name datasets first, and their stores after "
            "--logits"
        )


def _opened(
    folders: Sequence[str], read: Callable[[epath.Path], _Read]
) -> tuple[dict[epath.Path, _Read], list[epath.Path]]:
    """Returns what was read of each folder, and the folders where that failed, which it prints."""
    found: dict[epath.Path, _Read] = {}
    failed: list[epath.Path] = []
    for folder in map(epath.Path, folders):
        try:
            found[folder] = read(folder)
        except (RecordsError, LogitsError) as fault:
            _print_faults(iter([str(fault)]))
            failed.append(folder)
    return found, failed


def _dataset_of(
    store: LogitStore, datasets: Mapping[epath.Path, Manifest], *, all_read: bool
) -> epath.Path | None:
    """Returns the folder of the dataset that a store was made for; None where that may be one that
    could not be read.
    """
    for path, found in datasets.items():
        if found.fingerprint == store.manifest.dataset:
            return path
    if not all_read:
        return None
    raise LogitsError(
        f"{store.folder} was made for none of the datasets given; name the one with fingerprint"
        f" {store.manifest.dataset}"
    )


def _store_faults(
    store: LogitStore, dataset: Dataset, arguments: argparse.Namespace
) -> Iterator[str]:
    """Yields the faults of a store; where it has none, it is compared with its teacher."""
    print(f"reading {store.folder}: {len(dataset)} rows of logits", file=sys.stderr)
    whole = True
    for fault in logits_faults(store, dataset):
        whole = False
        yield fault
    if arguments.teacher and whole:
        yield from _teacher_faults(store, dataset, arguments)


def _teacher_faults(
    store: LogitStore, dataset: Dataset, arguments: argparse.Namespace
) -> Iterator[str]:
    """Yields the rows of a sample for which the teacher's outputs differ from the store's."""
    # Every worker imports this file: what only the teacher needs is imported here.
    import jax

    from pd_jax.parallel.mesh import make_mesh
    from pd_jax.stages.teachers import open_teacher

    declared = store.manifest
    size = min(arguments.sample or _SAMPLE, len(dataset))
    tolerance = _TOLERANCE if arguments.tolerance is None else arguments.tolerance
    sample = np.sort(Permutation(len(dataset), ("verify",))(np.arange(size)))
    longest = int(dataset.lengths[sample].max())
    stage = _stage_again(store, dataset, arguments.teacher, longest=longest)
    mesh = make_mesh(config.Mesh(data=1), jax.local_devices()[:1])
    teacher, answers, _ = open_teacher(stage, dataset, mesh)
    reads = teacher.settings.get("tokenizer")
    same = (
        teacher.fingerprint == declared.teacher
        and declared.settings.get("tokenizer", reads) == reads
    )
    if not same or len(teacher.labels) != len(declared.labels):
        raise LogitsError(
            f"{store.folder} was made by a model other than {arguments.teacher}, or with another "
            "tokenizer; name its teacher"
        )
    print(f"computing {size} rows again with {arguments.teacher}", file=sys.stderr)
    with Progress("computing again", size) as progress:
        for rows, values in answers(sample):
            stored = store.read(rows, dataset.gather(rows).example_ids)
            for name, array in values.items():
                apart = np.abs(array - stored[name])
                if name == "tokens":
                    apart = apart * _in_clear_order(stored["logits"], tolerance)
                apart = apart.reshape(len(rows), -1).max(axis=1)
                for row in np.flatnonzero(~(apart <= tolerance)):  # NaN is a fault
                    place = store.place(int(rows[row]))
                    yield f"{place} is {apart[row]:.2g} from the teacher's output ({name})"
            progress.advance(len(rows))


def _stage_again(
    store: LogitStore, dataset: Dataset, teacher: str, *, longest: int
) -> config.LabelStage:
    """Returns the stage that a store's teacher was run with, except for the batches; where the
    store does not have it, rows are not cut, the longest being `longest`.
    """
    from pd_jax.stages.language_teacher import stage_of

    declared, language = store.manifest, stage_of(store)
    lengths = language.lengths if language else tuple(declared.settings.get("lengths", (longest,)))
    return config.LabelStage(
        teacher=teacher,
        records=str(dataset.folder),
        batch=_SAMPLE_BATCH,
        lengths=lengths,
        dtype=declared.settings.get("dtype", "float32"),
        labels=declared.labels,
        states=tuple(declared.about.get("state_layers", ())),
        language=language and language.language,
    )


def _in_clear_order(logits: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns which of a teacher's likeliest tokens no rounding can exchange for a neighbour."""
    clear = -np.diff(logits, axis=-1, append=logits[..., -1:]) > 2 * tolerance
    return clear & np.concatenate([np.ones_like(clear[..., :1]), clear[..., :-1]], axis=-1)


if __name__ == "__main__":
    sys.exit(command.run(main))
