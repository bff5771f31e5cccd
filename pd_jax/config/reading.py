"""From a config file to typed values, and back to JSON.

Every key that is not a field is refused with its full path and the nearest known name.
"""

import contextlib
import dataclasses
import json
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import pydantic

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError, did_you_mean


def pipeline_from(config: ml_collections.ConfigDict | Mapping[str, Any]) -> config_lib.Pipeline:
    """Returns the typed pipeline.

    Raises:
      ConfigError: one line for every unknown key (with the nearest known one) and for every value
        that does not fit.
    """
    if not isinstance(config, ml_collections.ConfigDict | Mapping):
        raise ConfigError(
            f"get_config returns {type(config).__name__}, not a config; return a ConfigDict"
        )
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    try:
        pipeline = pydantic.TypeAdapter(config_lib.Pipeline).validate_python(values)
    except pydantic.ValidationError as fault:
        errors = _of_one_branch(fault.errors())
        raise ConfigError("\n".join(_sentence(error, values) for error in errors)) from None
    for name, stage in pipeline.stages.items():
        for where, reference, _ in placed_references(stage, f"config.stages.{name}"):
            check_scheme(reference, where)
    return pipeline


_HALF_URL = re.compile(r"(gs|s3|https?|hdfs|file):/(?!/)")


def check_scheme(path: str, where: str) -> None:
    """Raises ConfigError where a path is a URL that is not read here, or begins with a `~`, which
    only a shell replaces; `where` it was given.
    """
    if _HALF_URL.match(path):
        raise ConfigError(f"{where}: {path} is half a URL; write its scheme with ://")
    scheme, found, _ = path.partition("://")
    if found and scheme != "gs":
        raise ConfigError(
            f"{where}: {path} cannot be opened; copy it to a disk or to a gs:// bucket, and name "
            "that copy"
        )
    check_home(path, where)


def check_home(path: str, where: str) -> None:
    """Raises ConfigError where a path begins with a `~`, which only a shell replaces."""
    if (home := os.path.expanduser(path)) != path:
        raise ConfigError(f"{where}: {path} begins with ~, which stays as it is here; write {home}")


def to_json(value: Any) -> Any:
    """Returns a config dataclass as JSON values (tuples become lists)."""
    return json.loads(pydantic.TypeAdapter(type(value)).dump_json(value))


def references(value: Any) -> list[str]:
    """Returns every reference in a config dataclass, in field order."""
    return [reference for _, reference, _ in placed_references(value, "")]


def placed_references(
    value: Any, where: str
) -> Iterator[tuple[str, str, config_lib.ReferenceMark]]:
    """Yields every reference in a config dataclass with its key behind `where`, and its mark."""
    hints = typing.get_type_hints(type(value), include_extras=True)
    for field in dataclasses.fields(value):
        held, key = getattr(value, field.name), f"{where}.{field.name}"
        if (mark := _reference_mark(hints[field.name])) is not None:
            given = tuple(held.values()) if isinstance(held, Mapping) else (held,)
            for named in given:
                yield from ((key, reference, mark) for reference in config_lib.several(named))
        else:
            for item in held if isinstance(held, tuple) else (held,):
                if dataclasses.is_dataclass(item):
                    yield from placed_references(item, key)


def map_references(value: Any, replace: Callable[[str, Any], str]) -> Any:
    """Returns a config dataclass with every reference replaced, at any depth.

    `replace` gets a reference and the dataclass that has it.
    """
    hints = typing.get_type_hints(type(value), include_extras=True)
    changed = {}
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if _reference_mark(hints[field.name]) is not None:
            changed[field.name] = _map_strings(held, lambda reference: replace(reference, value))
        elif dataclasses.is_dataclass(held):
            changed[field.name] = map_references(held, replace)
        elif isinstance(held, tuple) and held and dataclasses.is_dataclass(held[0]):
            changed[field.name] = tuple(map_references(item, replace) for item in held)
    return dataclasses.replace(value, **changed)


def _reference_mark(hint: Any) -> config_lib.ReferenceMark | None:
    """Returns the mark of a type that holds references; None for another."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, config_lib.ReferenceMark):
            return mark
    return next(filter(None, map(_reference_mark, typing.get_args(hint))), None)


def _map_strings(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, Mapping):
        return {name: _map_strings(item, replace) for name, item in value.items()}
    return tuple(replace(item) for item in value) if value is not None else None


def _of_one_branch(errors: Sequence[Any]) -> list[Any]:
    """Returns the errors without those of the branch `tuple[X, ...]` of a field where the branch
    `X` has errors too: a mapping was given.
    """
    found = {error["loc"][:-2] for error in errors}
    return [
        error for error in errors if error["type"] != "tuple_type" or error["loc"][:-1] not in found
    ]


def _sentence(error: Any, values: Mapping[str, Any]) -> str:
    """Returns one sentence for one pydantic error: the key's full path, what is wrong, and the
    nearest name.
    """
    keys = list(_keys(error["loc"], values))
    path = ".".join(map(str, keys))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        beside: Any = values
        for key in keys[:-1]:
            beside = beside[key]
        return f"config.{path} is not a known key" + _elsewhere(str(keys[-1]), beside)
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"config.{path} is missing; give it a value"
    reason = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (got {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    if error["type"] == "string_type" and shown:
        shown = f" (got {given!r}; write {str(given)!r})"
    where = f"config.{path}" if path else "config"
    return f"{where}: {reason}{shown}"


def _elsewhere(key: str, beside: Mapping[str, Any]) -> str:
    """Returns the end of a sentence on an unknown key: the nearest that is known `beside` the other
    keys of its place and where it belongs, or the nearest of all.
    """
    known = set(beside) & set(_FIELDS) - {key}
    here = {name for kind in _TYPES if known <= set(_fields(kind)) for name in _fields(kind)}
    near = did_you_mean(key, sorted(here))
    owners = ", ".join(kind.__name__ for kind in _TYPES if key in _fields(kind))
    if owners:
        return f" here{near} It is one of {owners}" if near else f" here; it is one of {owners}"
    return near or did_you_mean(key, _FIELDS)


def _keys(place: Sequence[str | int], values: Any) -> Iterator[str | int]:
    """Yields the keys on the path to an error, without the kinds, layouts and types that pydantic
    inserts after the key of a union; a key of the same name stays.
    """
    entered = False
    for part in place:
        if entered and part in (values.get("kind"), values.get("layout"), *_BRANCHES):
            entered = False
            continue
        if str(part).startswith("tuple["):
            continue
        yield part
        with contextlib.suppress(KeyError, IndexError, TypeError):
            values = values[part]
        entered = isinstance(values, Mapping)


_TYPES = [
    kind
    for kind in vars(config_lib).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
]


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


_BRANCHES = [kind.__name__ for kind in _TYPES]
_FIELDS = sorted({name for kind in _TYPES for name in _fields(kind)})
