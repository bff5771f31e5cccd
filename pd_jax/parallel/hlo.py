"""What a compiled program runs and sends between devices, read from its text."""

import math
import re
from typing import NamedTuple

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(_KINDS)})(-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_ARRAY = re.compile(r"(pred|bf16|[a-z]+?(\d+)\w*)\[([\d,]*)\]")


_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_OPERATION = re.compile(r"^ +(?:ROOT )?%\S+ = (?:\(.*?\)|\S+) ([\w-]+)\(", re.MULTILINE)


class Traffic(NamedTuple):
    """How often one kind of collective occurs in a program, and its bytes on one device."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Traffic]:
    """Returns kind -> traffic for a compiled program's text; kinds that do not occur are left out.

    Bytes are those of the results. A collective in the body of a loop counts once. One that the
    compiler spreads over several fusions, to hide it behind arithmetic, stands there several times
    with the same channel, and counts once too.
    """
    sizes: dict[tuple[str, str], int] = {}
    for number, match in enumerate(_INSTRUCTION.finditer(text)):
        shapes, kind, started = match.groups()
        arrays = [_bytes(*array) for array in _ARRAY.findall(shapes)]
        # A gather or permute that was only started holds its operand beside its result.
        size = max(arrays) if started and kind != "all-reduce" else sum(arrays)
        channel = _CHANNEL.search(text, match.end(), text.find("\n", match.end()))
        key = (kind, channel[1] if channel else f"instruction {number}")
        sizes[key] = max(size, sizes.get(key, 0))
    found: dict[str, Traffic] = {}
    for (kind, _), size in sizes.items():
        before = found.get(kind, Traffic(0, 0))
        found[kind] = Traffic(before.count + 1, before.bytes + size)
    return found


def kernels(text: str) -> int:
    """Returns how many operations of a program's main sequence do work; a loop counts as one."""
    operations = _OPERATION.findall(text, text.find("\nENTRY "))
    return sum(operation not in _FREE for operation in operations)


def seconds(traffic: dict[str, Traffic], interconnect: float) -> float:
    """Returns the least time for traffic at so many bytes a second; an all-reduce goes twice."""
    moved = sum(entry.bytes * (2 if kind == "all-reduce" else 1) for kind, entry in traffic.items())
    return moved / interconnect


def _bytes(kind: str, bits: str, sizes: str) -> int:
    width = {"pred": 8, "bf16": 16}.get(kind) or int(bits)
    return math.prod(int(size) for size in sizes.split(",") if size) * max(8, width) // 8
