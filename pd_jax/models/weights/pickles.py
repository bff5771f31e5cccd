"""Reads the tensors of a torch file (`pytorch_model.bin`) without torch, running no pickled code.

A pickle is a program. The one allowed here may call three functions (a dict, a tensor, a
parameter), all written below and bound to one reading; whatever else it names ends the reading.
What they make are records of where a tensor's numbers lie, which are checked against the numbers
present before any are touched.

Both layouts are read: the zip archive of torch 1.6 and later, and the older stream that many files
of 2020 still have.
"""

import collections
import dataclasses
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from etils import epath

from pd_jax.errors import WeightsError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclasses.dataclass(eq=False)
class _Storage:
    """A run of numbers of one kind; `content` comes from the archive, never from the pickle."""

    dtype: str
    content: bytes = b""


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def load(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Returns name -> array of the state dict in a torch file; 16-bit floats become float32.

    Raises:
      WeightsError: the pickle names anything but tensors and dicts, the file is damaged, or it
        contains something other than a table of tensors.
    """
    path = epath.Path(path)
    content = path.read_bytes()
    try:
        value = (
            _read_zip(content) if zipfile.is_zipfile(io.BytesIO(content)) else _read_legacy(content)
        )
        return _arrays(value)
    except _Refused as fault:
        raise WeightsError(
            f"{path} {fault}; use a model.safetensors from a source you trust"
        ) from None
    # A hostile or truncated pickle can raise anything, and all of it means the same to the user.
    except Exception as fault:
        raise WeightsError(
            f"{path} is damaged ({type(fault).__name__}: {fault}); download it again, or use a "
            "model.safetensors"
        ) from None


def widened(words: np.ndarray) -> np.ndarray:
    """Returns the float32 numbers of bfloat16 ones, given as 16-bit words."""
    return (words.astype(np.uint32) << 16).view(np.float32)


class _Refused(Exception):
    """What the file asks for is not done."""


class _Unpickler(pickle.Unpickler):
    """Builds tensors' records, and refuses to look up anything else."""

    def __init__(self, stream: IO[bytes], storage_of: Callable[[str, str], _Storage]) -> None:
        super().__init__(stream)
        self._storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a global of the pickle stands for here: a name is never imported."""

        # Made for each lookup: a pickle that edits what it is given edits nothing of ours.
        def tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
            return _Tensor(storage, offset, tuple(size), tuple(stride))

        def parameter(data: Any, *_: Any) -> Any:
            return data

        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_parameter"): parameter,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in _DTYPES:
            return name
        raise _Refused(f"asks to run {module}.{name}, which tensors do not need")

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that the pickle refers to."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype not in _DTYPES or not isinstance(key, str):
            raise _Refused(f"refers to {pid!r:.80}, which is not a storage of numbers")
        return self._storage_of(key, _DTYPES[dtype])


def _read_zip(content: bytes) -> Any:
    """Returns the object in a torch >= 1.6 archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        (root,) = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if root + "byteorder" in names and archive.read(root + "byteorder") != b"little":
            raise _Refused("was written on a big-endian machine")
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise _Refused(
                    f"has the compressed entry {entry.filename}, which torch never writes"
                )
        storages: dict[str, _Storage] = {}

        def storage_of(key: str, dtype: str) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(dtype, archive.read(f"{root}data/{key}"))
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(root + "data.pkl")), storage_of).load()


def _read_legacy(content: bytes) -> Any:
    """Returns the object in a file of torch < 1.6: five pickles, then the storages."""
    stream = io.BytesIO(content)
    storages: dict[str, _Storage] = {}

    def storage_of(key: str, dtype: str) -> _Storage:
        return storages.setdefault(key, _Storage(dtype))

    magic, protocol, _, value, keys = (_Unpickler(stream, storage_of).load() for _ in range(5))
    if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise _Refused("is not a torch file")
    for key in keys:
        storage = storages[key]
        length = int.from_bytes(stream.read(8), "little") * _item_size(storage.dtype)
        storage.content = stream.read(length)
        if len(storage.content) != length:
            raise ValueError(f"storage {key} ends early")
    return value


def _arrays(value: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a table of tensors."""
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in value.items()
    ):
        raise _Refused("contains something other than a table of tensors by name")
    return {name: _array(name, tensor) for name, tensor in value.items()}


def _array(name: str, tensor: _Tensor) -> np.ndarray:
    """Returns a copy of the numbers that a record points at, checked to lie in its storage."""
    storage = tensor.storage
    if not isinstance(storage, _Storage):
        raise _Refused(f"gives {name} no storage of numbers")
    flat = np.frombuffer(storage.content, "<u2" if storage.dtype == "bfloat16" else storage.dtype)
    numbers = (tensor.offset, *tensor.size, *tensor.stride)
    if len(tensor.size) != len(tensor.stride) or not all(
        type(number) is int and number >= 0 for number in numbers
    ):
        raise _Refused(f"gives {name} an impossible shape")
    count = int(np.prod(tensor.size, dtype=object)) if tensor.size else 1
    last = tensor.offset + sum(
        (size - 1) * step for size, step in zip(tensor.size, tensor.stride, strict=True)
    )
    if count and (last >= flat.size or count > flat.size):
        raise _Refused(f"lets {name} point outside of its {flat.size} numbers")
    strides = [step * flat.itemsize for step in tensor.stride]
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.size, strides, writeable=False
    )
    if storage.dtype == "bfloat16":
        return widened(view)
    return view.astype(np.float32) if storage.dtype == "<f2" else view.copy()


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
