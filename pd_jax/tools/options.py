"""Options that several commands share, and reports of wrong options in one sentence."""

import argparse
import os
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pydantic
from etils import epath

from pd_jax import config
from pd_jax.errors import ConfigError

_PADDED = (*range(16, 129, 16), 192, 256, 384, 512)
"""Padded lengths: each is compiled once, and batches of short rows use the shorter ones."""


def add_source(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name text."""
    add = parser.add_argument
    add("--input", nargs="+", action="extend", required=True, metavar="PATH", help="text to read")
    formats = typing.get_args(config.TextFormat)
    add("--format", choices=formats, default="auto", help="default: by file ending")
    add("--text-column", default="text", metavar="NAME", help="default: %(default)s")
    add(
        "--columns",
        type=names,
        default=(),
        metavar="A,B",
        help="names of the columns of a TSV or CSV file without a header",
    )
    limits = parser.add_mutually_exclusive_group()
    first = {"type": at_least(1), "metavar": "N"}
    limits.add_argument("--rows", **first, help="read the first N rows only")
    limits.add_argument("--documents", **first, help="of a corpus: read the first N documents only")
    add_skip_broken_rows(parser)


def add_skip_broken_rows(parser: argparse.ArgumentParser) -> None:
    """Adds the argument by which broken rows are left out."""
    kinds = "with too few or too many columns, null for text, no JSON, no UTF-8, or over 16 MiB"
    parser.add_argument(
        "--skip-broken-rows", action="store_true", help=f"leave out and count rows {kinds}"
    )


def source_from(
    arguments: argparse.Namespace, *, pair: str | None = None, label: str | None = None
) -> config.Source:
    """Returns the source that the arguments of `add_source` name."""
    return config.Source(
        path=tuple(arguments.input),
        format=arguments.format,
        text=arguments.text_column,
        pair=pair,
        label=label,
        columns=arguments.columns,
        broken_rows="skip" if arguments.skip_broken_rows else "refuse",
        rows=arguments.rows,
        documents=arguments.documents,
    )


def at_least(smallest: int) -> Callable[[str], int]:
    """Returns an argparse type for whole numbers from `smallest` on."""

    def number(given: str) -> int:
        if not given.isdecimal() or int(given) < smallest:
            raise argparse.ArgumentTypeError(f"{given!r} is not a whole number from {smallest} on")
        return int(given)

    return number


def numbers(smallest: int) -> Callable[[str], tuple[int, ...]]:
    """Returns an argparse type for whole numbers from `smallest` on, separated by commas.

    An empty string gives none.
    """
    number = at_least(smallest)

    def several(given: str) -> tuple[int, ...]:
        return tuple(number(part) for part in given.split(",")) if given else ()

    return several


def names(given: str) -> tuple[str, ...]:
    """Returns names that are separated by commas; an argparse type."""
    return tuple(filter(None, map(str.strip, given.split(","))))


def check_output(path: str | None, *, option: str = "--output") -> None:
    """Makes the folder of a file that a command will write at its end; raises ConfigError where the
    file could not be written, before any work.
    """
    if path is None:
        return
    if epath.Path(path).is_dir():
        raise ConfigError(f"{option}={path} is a folder; name a file in it")
    try:
        epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"{option}={path}: {fault.strerror}; name another place") from None


def check_unread(
    path: str | None, read: Iterable[epath.PathLike], *, option: str = "--output"
) -> None:
    """Raises ConfigError where a file would be written over one of those that are read, or into a
    folder that is read.
    """
    place = "" if path is None else _real(path)
    for one in read if path is not None else ():
        if place == _real(one):
            raise ConfigError(f"{option}={path} is a file that is read; name another one")
        if place.startswith(f"{_real(one)}/"):
            raise ConfigError(f"{option}={path} is in {one}, which is read; name another place")


def check_apart(source: epath.PathLike, output: epath.PathLike, *, kind: str = "model") -> None:
    """Raises ConfigError where a folder would be written over the one that is read, which is of a
    `kind`.
    """
    if _real(source) == _real(output):
        raise ConfigError(f"--output={output} is the {kind} that is read; name another folder")


def _real(path: epath.PathLike) -> str:
    """Returns the place of a path, by whatever links it is named."""
    return os.path.realpath(os.fspath(path))


def check_used(arguments: argparse.Namespace, needed: str, *names: str) -> None:
    """Raises ConfigError where an option was given, so that it is not None, without the one that it
    needs to have an effect.
    """
    if not getattr(arguments, needed):
        check_absent(arguments, _option(needed), *names)


def check_absent(arguments: argparse.Namespace, needed: str, *names: str) -> None:
    """Raises ConfigError where an option was given, so that it is not None, and has no effect
    without what is `needed`: another option, as it is written.
    """
    for name in names:
        if getattr(arguments, name) is not None:
            raise ConfigError(
                f"{_option(name)} has no effect without {needed}; give both or leave it out"
            )


def _option(name: str) -> str:
    """Returns an option as it is written, from its name among argparse's arguments."""
    return f"--{name.replace('_', '-')}"


def padded_lengths(longest: int) -> tuple[int, ...]:
    """Returns padded lengths for rows of up to `longest` tokens."""
    return (*(length for length in _PADDED if length < longest), longest)


def named(given: str, *, option: str, write: str) -> tuple[str, str]:
    """Returns the parts of a `NAME=VALUE`; raises ConfigError where one is missing, with what to
    `write`.
    """
    name, _, value = given.partition("=")
    if not name or not value:
        raise ConfigError(f"{option} {given} is incomplete; write {write}")
    return name, value


@contextmanager
def faults() -> Iterator[None]:
    """Turns a value that a config refuses into a ConfigError that names the option."""
    try:
        yield
    except pydantic.ValidationError as fault:
        sentences = []
        for error in fault.errors():
            option = "".join(f"{_option(str(part))}: " for part in error["loc"][:1])
            sentences.append(option + error["msg"].removeprefix("Value error, "))
        raise ConfigError("; ".join(sentences)) from None
