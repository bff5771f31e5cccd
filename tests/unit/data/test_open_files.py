"""Datasets of more shards than a process may open files: what is read, and what is said."""

import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from pd_jax import files
from pd_jax.data.wire import remote
from pd_jax.errors import RecordsError
from tests import tiny

SHARDS = 60
LIMIT = """
import os, resource, sys
import numpy as np
from pd_jax.data.building import filters
from pd_jax.data.logits import store
from pd_jax.data.records import dataset as records
def limit(more, *, hard):
    soft = len(os.listdir("/proc/self/fd")) + more
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft if hard else before))
"""

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux's /proc")


def printed(program, *arguments):
    """Returns what a program prints that limits its own open files."""
    done = subprocess.run(
        [sys.executable, "-c", LIMIT + program, *map(str, arguments)],
        capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def dataset(make_dataset, record):
    rows = [record(n, 4, label=n % 2) for n in range(SHARDS)]
    return make_dataset(rows, shards=(1,) * SHARDS, task="classification", labels=("no", "yes"))


def test_a_lower_limit_than_the_system_allows_is_raised(dataset, tmp_path):
    values = np.zeros((SHARDS, 2), np.float32)
    tiny.logit_store(tmp_path / "store", dataset, values, labels=("no", "yes"))
    program = """
limit(20, hard=False)
records._CACHE_BYTES = 0
dataset = records.Dataset.open(sys.argv[1])
rows = np.arange(len(dataset))
ids = dataset.gather(rows).example_ids
print(store.LogitStore.open(sys.argv[2]).read(rows, ids)['logits'].shape)
"""
    assert printed(program, dataset.folder, tmp_path / "store") == f"({SHARDS}, 2)\n"


def test_where_the_system_allows_no_more_the_remedy_is_named(dataset):
    program = """
limit(20, hard=True)
dataset = records.Dataset.open(sys.argv[1])  # keeps no file open
rows = np.arange(len(dataset))
print(len(dataset.gather(rows).lengths))  # nor does a small dataset
records._CACHE_BYTES = 0
dataset = records.Dataset.open(sys.argv[1])
try:
    dataset.gather(rows)
except records.RecordsError as fault:
    print(fault)
taken = []
try:
    while True:
        taken.append(open(os.devnull))
except OSError:
    pass
try:
    records.Dataset.open(sys.argv[1])
except records.RecordsError as fault:
    print(fault)
"""
    rows, gathered, opened = printed(program, dataset.folder).splitlines()
    assert rows == str(SHARDS)
    assert opened.startswith(f"{dataset.folder} cannot be opened, since this process has as many")
    assert ".tfrecord cannot be opened, since this process has as many files open as" in gathered
    for fault in (opened, gathered):
        assert fault.endswith("raise the limit on open files (ulimit -n)")


def test_names_of_more_shards_than_open_files_are_matched(tmp_path):
    program = f"""
limit(20, hard=True)
shards = [filters.Filter(sys.argv[1], n, "names", None) for n in range({SHARDS})]
for shard in shards:
    filters.scan(shard, [filters.corpora.Row(f"row {{shard.index // 2}}", None, None, None, 1)])
everything = filters.match(shards)
print(sum(len(np.load(shard.duplicates_file(everything))) for shard in shards))
"""
    assert printed(program, tmp_path) == f"{SHARDS // 2}\n"


def test_files_of_a_bucket_are_asked_for_at_once_and_answered_in_order(tmp_path, monkeypatch):
    waiting = threading.Barrier(8, timeout=30)  # passed by eight at once only

    def ask(item: int) -> int:
        waiting.wait()
        return item * item

    def lack(item: int) -> int:
        raise RecordsError(f"{item} is missing")

    assert remote.each(lambda item: -item, range(5), tmp_path) == [0, -1, -2, -3, -4]
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    assert remote.each(ask, range(16), tmp_path) == [item * item for item in range(16)]
    with pytest.raises(RecordsError, match="^21 is missing"):
        remote.each(lack, range(21, 32), tmp_path)
