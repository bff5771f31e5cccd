"""Where arrays live on a mesh: batches by row, parameters by a table of rules.

Data-parallel meshes keep every parameter on every device. `fsdp` and `tensor` split the large ones,
and the optimiser's moments with them.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pd_jax.errors import MeshError
from pd_jax.parallel.mesh import row_places, row_share

BATCH_AXES = ("data", "fsdp")
"""A batch's rows are spread over both axes; `tensor` splits parameters only."""

Axes = tuple[str | tuple[str, ...] | None, ...]
Rules = Mapping[str, Sequence[tuple[str, Sequence[Axes]]]]

RULES: Rules = {
    "bert": (
        # By rows of the vocabulary: split by feature, XLA rebuilds the whole table at every lookup.
        # Vocabularies rarely divide (30,522 = 2 x 3 x 5,087), so the table may also stay whole.
        ("embeddings/word/embedding$", ((("fsdp", "tensor"), None), ("fsdp", None), ())),
        # The pooler is one matrix, used on few rows: gathering it costs more than holding it. It
        # shares a rule because masked language models have none.
        ("(embeddings|pooler)/", ((),)),
        # Columns, then rows: one all-reduce over `tensor` after attention and one after the MLP.
        (r"layer_\d+/(attention/(query|key|value)|mlp_in)/kernel$", (("fsdp", "tensor"),)),
        (r"layer_\d+/(attention/(query|key|value)|mlp_in)/bias$", (("tensor",),)),
        (r"layer_\d+/(attention/output|mlp_out)/kernel$", (("tensor", "fsdp"),)),
        (r"layer_\d+/(attention/output|mlp_out)/bias$", ((),)),
        (r"layer_\d+/(attention_norm|mlp_norm)/", ((),)),
    ),
    "mlm": ((".", ((),)),),
    "nsp": ((".", ((),)),),
    "classifier": ((".", ((),)),),
}
"""Module -> (pattern below it, mesh axes of each dimension), first match wins.

Several axes are alternatives, of which the first that divides is taken; `()` is a whole copy on
every device.
"""


class Placed(NamedTuple):
    """One tensor's place: its rule, the axes it got, and why not the first alternative."""

    module: str
    rule: int
    spec: PartitionSpec
    note: str


def constrain_batch(array: jax.Array) -> jax.Array:
    """Returns `array` constrained to row sharding on the current mesh, or XLA may replicate it."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    spec = PartitionSpec(BATCH_AXES, *(None,) * (array.ndim - 1))
    return jax.lax.with_sharding_constraint(array, spec)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every array of a batch: by row, over all but `tensor`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global arrays of a batch of which this process holds `mesh.row_share`'s rows.

    Raises:
      MeshError: where this process's rows do not divide over its devices.
    """
    places = row_places(mesh) // row_share(mesh)[1]
    for name, rows in batch.items():
        if rows.shape[0] % places:
            raise MeshError(
                f"{name} of a batch has {rows.shape[0]} rows for {places} row places of a process "
                f"({rows.shape[0]} % {places} = {rows.shape[0] % places}); make the batch a "
                "multiple of run.mesh.data x run.mesh.fsdp"
            )
    return jax.make_array_from_process_local_data(batch_sharding(mesh), dict(batch))


def assign(shapes: Any, rules: Rules, mesh: Mesh) -> Any:
    """Returns a tree of NamedSharding for a tree of shapes: parameters, or a state that holds them.

    An optimiser's moments have their parameter's path inside their own and share its place; scalars
    are whole everywhere.

    Raises:
      MeshError: naming the tensor or rule, for a tensor that no rule covers, a rule of a module at
        hand that covers nothing, an axis used twice or unknown, or a split that does not divide.
    """
    used: dict[str, set[int]] = {}

    def place(path: Any, leaf: Any) -> NamedSharding:
        if not leaf.shape:
            return NamedSharding(mesh, PartitionSpec())
        placed = _place(parameter_name(path), leaf.shape, rules, mesh)
        used.setdefault(placed.module, set()).add(placed.rule)
        return NamedSharding(mesh, placed.spec)

    shardings = jax.tree_util.tree_map_with_path(place, shapes)
    for module, indices in used.items():
        for index, (pattern, _) in enumerate(rules[module]):
            if index not in indices:
                raise MeshError(
                    f"sharding rule {module}: {pattern!r} places no tensor; remove it, or fix its "
                    "pattern in RULES of pd_jax/parallel/sharding.py"
                )
    return shardings


def table(shapes: Any, shardings: Any, rules: Rules = RULES) -> str:
    """Returns lines of tensor, shape, spec, bytes per device and remarks, and a line of totals."""
    rows = [("tensor", "shape", "spec", "bytes/device", "remark")]
    total = 0
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        name = parameter_name(path)
        held = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        total += held
        note = _place(name, leaf.shape, rules, sharding.mesh).note if leaf.shape else ""
        rows.append((name, _by(leaf.shape), _show(sharding.spec), f"{held:,}".rjust(12), note))
    rows.append((f"{len(leaves)} tensors", "", "", f"{total:,}".rjust(12), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def parameter_name(path: Any) -> str:
    """Returns `bert/layer_0/mlp_in/kernel` for a key path of a tree."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _place(name: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> Placed:
    """Returns the place of one tensor."""
    parts = name.split("/")
    module = next((part for part in parts if part in rules), None)
    if module is not None:
        below = "/".join(parts[parts.index(module) + 1 :])
        for index, (pattern, alternatives) in enumerate(rules[module]):
            if re.match(pattern, below):
                return Placed(module, index, *_first_that_divides(name, shape, alternatives, mesh))
    raise MeshError(
        f"no sharding rule covers {name} {_by(shape)}; add one to RULES in "
        "pd_jax/parallel/sharding.py"
    )


def _first_that_divides(
    name: str, shape: tuple[int, ...], alternatives: Sequence[Axes], mesh: Mesh
) -> tuple[PartitionSpec, str]:
    """Returns the spec of the first alternative that divides, and a note on those that do not."""
    refusals: list[str] = []
    for axes in alternatives:
        _check_axes(name, shape, axes, mesh)
        refused = list(_indivisible(shape, axes, mesh))
        if not refused:
            kept = [_live(axis, mesh) for axis in axes]
            while kept and kept[-1] is None:
                kept.pop()
            return PartitionSpec(*kept), refusals[-1] if refusals else ""
        refusals += refused
    raise MeshError(
        f"{name} {_by(shape)} cannot be split: {'; '.join(dict.fromkeys(refusals))}; "
        "choose run.mesh sizes that divide, and give the other devices to data"
    )


def _check_axes(name: str, shape: tuple[int, ...], axes: Axes, mesh: Mesh) -> None:
    if len(axes) > len(shape):
        raise MeshError(f"the rule for {name} names {len(axes)} dimensions, but it is {_by(shape)}")
    names = [axis for part in axes for axis in _names(part)]
    for axis in names:
        if axis not in mesh.shape:
            raise MeshError(
                f"the rule for {name} names axis {axis!r}; axes are {', '.join(mesh.shape)}"
            )
        if names.count(axis) > 1:
            raise MeshError(
                f"the rule for {name} uses axis {axis!r} twice; a tensor can use it once"
            )


def _indivisible(shape: tuple[int, ...], axes: Axes, mesh: Mesh) -> Iterator[str]:
    """Yields the arithmetic of each dimension that does not divide."""
    for size, part in zip(shape, axes, strict=False):
        parts = math.prod(mesh.shape[axis] for axis in _names(part))
        if size % parts:
            label = " x ".join(axis for axis in _names(part) if mesh.shape[axis] > 1)
            yield f"{size} does not divide by {label} = {parts} ({size} % {parts} = {size % parts})"


def _live(part: str | tuple[str, ...] | None, mesh: Mesh) -> Any:
    """Returns the axes of one dimension that have more than one device."""
    names = tuple(axis for axis in _names(part) if mesh.shape[axis] > 1)
    return names if len(names) > 1 else names[0] if names else None


def _names(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if part is None else (part,) if isinstance(part, str) else part


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _show(spec: PartitionSpec) -> str:
    return ", ".join("+".join(_names(part)) or "-" for part in spec) or "whole"
