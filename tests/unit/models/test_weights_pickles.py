"""Torch files are read without torch, and nothing pickled in them runs."""

import collections
import io
import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest

from pd_jax.errors import WeightsError
from pd_jax.models.weights import pickles


class Global:
    """Pickles as the global `name`, called with `arguments` where there are any."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments


class Stored:
    """Pickles as a reference to a storage, as torch's tensors do."""

    def __init__(self, dtype: str, key: str, count: int) -> None:
        self.dtype, self.key, self.count = dtype, key, count


class Pickler(pickle._Pickler):  # the one in Python, whose dispatch can be extended
    """Writes what torch would, without torch."""

    dispatch = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Stored):
            storage = Global(f"torch {value.dtype}")
            return ("storage", storage, value.key, "cpu", value.count)
        return None

    def save_global_by_name(self, value: Global) -> None:
        self.write(pickle.GLOBAL + value.name.replace(" ", "\n").encode() + b"\n")
        if value.arguments:
            self.save(value.arguments)
            self.write(pickle.REDUCE)

    dispatch[Global] = save_global_by_name


def pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def tensor(
    key: str, count: int, size: Any, stride: Any, *, offset: Any = 0, dtype: str = "FloatStorage"
) -> Global:
    stored = Stored(dtype, key, count)
    hooks = collections.OrderedDict()
    name = "torch._utils _rebuild_tensor_v2"
    return Global(name, stored, offset, size, stride, False, hooks)


def write_zip(
    path: pathlib.Path, value: Any, storages: dict[str, bytes], kind: int = zipfile.ZIP_STORED
) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", value if isinstance(value, bytes) else pickled(value))
        archive.writestr("archive/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


NUMBERS = np.arange(6, dtype=np.float32)


def test_tensors_come_out_with_their_strides(tmp_path: pathlib.Path) -> None:
    value = {
        "whole": tensor("0", 6, (2, 3), (3, 1)),
        "turned": tensor("0", 6, (3, 2), (1, 3)),
        "tail": Global("torch._utils _rebuild_parameter", tensor("0", 6, (2,), (1,), offset=4), 1),
        "one": tensor("0", 6, (), (), offset=5),
        "half": tensor("1", 2, (2,), (1,), dtype="HalfStorage"),
        "brain": tensor("2", 2, (2,), (1,), dtype="BFloat16Storage"),
    }
    storages = {
        "0": NUMBERS.tobytes(),
        "1": np.array([0.5, -2], "<f2").tobytes(),
        "2": np.array([0x3F80, 0xC049], "<u2").tobytes(),
    }
    found = pickles.load(write_zip(tmp_path / "m.bin", value, storages))
    np.testing.assert_array_equal(found["whole"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["turned"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["tail"], [4, 5])
    assert found["one"] == 5
    np.testing.assert_array_equal(found["half"], [0.5, -2])
    np.testing.assert_array_equal(found["brain"], [1.0, -3.140625])
    assert {array.dtype for array in found.values()} == {np.dtype("float32")}


class Touch:
    """Runs `touch FILE` when an ordinary reader loads it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_pickled_code_does_not_run(tmp_path: pathlib.Path, legacy: bool, nested: bool) -> None:
    mark = tmp_path / "it-ran"
    evil = pickle.dumps({"weight": Touch(mark)} if nested else Touch(mark), protocol=2)
    path = tmp_path / "pytorch_model.bin"
    if legacy:
        path.write_bytes(evil)
    else:
        write_zip(path, evil, {})
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin asks to run posix\.system"):
        pickles.load(path)
    assert not mark.exists()
    pickle.loads(evil)  # The control: an ordinary reader is fooled.
    assert mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "builtins getattr",
        "torch.storage _load_from_bytes",
        "torch load",
        "torch._utils _rebuild_tensor_v2.__globals__",
        "collections OrderedDict.__init__.__globals__",
        "pd_jax.models.weights.pickles load",
        "numpy.core.multiarray _reconstruct",
    ],
)
def test_no_other_name_is_looked_up(tmp_path: pathlib.Path, name: str) -> None:
    value = {"weight": Global(name, "1")}
    with pytest.raises(WeightsError, match="asks to run"):
        pickles.load(write_zip(tmp_path / "m.bin", value, {}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor("0", 6, (7,), (1,)), "point outside of its 6 numbers"),
        (tensor("0", 6, (2,), (1,), offset=5), "point outside of its 6 numbers"),
        (tensor("0", 6, (2, 2), (1 << 62, 1)), "point outside"),
        (tensor("0", 6, (1 << 40,), (0,)), "point outside"),
        (tensor("0", 6, (2,), (-1,), offset=3), "impossible shape"),
        (tensor("0", 6, (2,), (1,), offset=-1), "impossible shape"),
        (tensor("0", 6, (2, 3), (1,)), "impossible shape"),
        (tensor("0", 6, (2.0,), (1,)), "impossible shape"),
        (Global("torch._utils _rebuild_tensor_v2", "0", 0, (2,), (1,)), "no storage"),
        ("a sentence", "something other than a table"),
        ([1, 2], "something other than a table"),
    ],
)
def test_records_are_checked_against_the_numbers_present(
    tmp_path: pathlib.Path, value: Any, message: str
) -> None:
    path = write_zip(tmp_path / "m.bin", {"weight": value}, {"0": NUMBERS.tobytes()})
    with pytest.raises(WeightsError, match=message):
        pickles.load(path)


def test_compressed_entries_are_refused(tmp_path: pathlib.Path) -> None:
    """A megabyte of zeros packs into a kilobyte, a terabyte into a gigabyte."""
    value = {"weight": tensor("0", 6, (6,), (1,))}
    storages = {"0": NUMBERS.tobytes()}
    path = write_zip(tmp_path / "m.bin", value, storages, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed entry"):
        pickles.load(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_cut_file_is_refused(tmp_path: pathlib.Path, share: float) -> None:
    value = {"weight": tensor("0", 6, (6,), (1,))}
    path = write_zip(tmp_path / "m.bin", value, {"0": NUMBERS.tobytes()})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"m\.bin (is damaged|asks|is not a torch file)"):
        pickles.load(path)


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path: pathlib.Path) -> None:
    value = {"weight": tensor("0", 6, (6,), (1,))}
    path = write_zip(tmp_path / "m.bin", value, {"0": NUMBERS.tobytes()})
    content = bytearray(path.read_bytes())
    content[content.index(NUMBERS.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        pickles.load(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_torch_writes_is_read(tmp_path: pathlib.Path, legacy: bool, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    shared = torch.randn(5, 4)
    state = collections.OrderedDict(
        a=shared.to(kind), b=torch.nn.Parameter(shared.T.to(kind)), c=torch.arange(3), d=shared[2:4]
    )
    state._metadata = {"": {"version": 1}}
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    found = pickles.load(path)
    assert set(found) == set(state)
    for name, value in state.items():
        expected = value.detach().float() if name != "c" else value
        np.testing.assert_array_equal(found[name], expected.numpy())
