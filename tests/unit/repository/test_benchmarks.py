"""What benchmarks/ reports: ratios within a repetition, and peers that could not take part."""

import json
import sys
import types

import numpy as np
import pytest

import benchmarks.all
from benchmarks import predict, side_by_side, startup, texts, theirs
from benchmarks.side_by_side import Case, Peer, Skipped


class Clock:
    """A clock that only work moves."""

    def __init__(self):
        self.now = 0.0
        self.order = []

    def peer(self, name: str, seconds: list[float], work: float = 8.0) -> Peer:
        left = iter([0.0, *seconds])  # the warm-up first

        def work_for() -> None:
            self.now += next(left)
            self.order.append(name)

        return Peer(name, work_for, work)

    def read(self) -> float:
        return self.now


def test_ratios_are_taken_within_a_repetition():
    clock = Clock()
    # The machine slows down twofold in the second repetition, for both peers.
    case = Case(
        "steps", "rows", (clock.peer("ours", [1, 2, 1]), clock.peer("theirs", [1, 8, 2], work=4.0))
    )
    found = side_by_side.measure(case, repetitions=3, clock=clock.read, rest=lambda _: None)
    assert found["peers"]["ours"]["speed"] == {"median": 8.0, "least": 4.0, "greatest": 8.0}
    assert found["peers"]["theirs"]["speed"] == {"median": 2.0, "least": 0.5, "greatest": 4.0}
    assert found["peers"]["theirs"]["times"] == {"median": 4.0, "least": 2.0, "greatest": 8.0}
    assert clock.order == ["ours", "theirs"] + ["ours", "theirs", "theirs", "ours"] + [
        "ours",
        "theirs",
    ]
    assert "theirs 2/s (4.00x, 2.00 to 8.00)" in side_by_side.summary(found)


def test_a_peer_that_cannot_run_is_skipped_and_said_so():
    clock = Clock()

    def broken() -> None:
        raise RuntimeError("no compiler\nand a long trace")

    case = Case(
        "steps",
        "rows",
        (clock.peer("ours", [1]), Peer("compiled", broken, 1.0), Skipped("torch", "not installed")),
    )
    found = side_by_side.measure(case, repetitions=1, clock=clock.read, rest=lambda _: None)
    assert found["skipped"] == {
        "torch": "not installed",
        "compiled": "no compiler",
    }
    assert "compiled skipped: no compiler" in side_by_side.summary(found)


def test_our_own_fault_is_no_skipped_peer():
    def broken() -> None:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        side_by_side.measure(Case("steps", "rows", (Peer("ours", broken, 1.0),)), repetitions=1)


def test_a_result_names_machine_versions_and_command(tmp_path, capsys):
    case = Case("steps", "rows", (Peer("ours", lambda: None, 1.0),), {"tokens": 3})
    output = tmp_path / "results" / "steps.json"
    side_by_side.run("Steps", iter([case]), repetitions=1, output=output, command="python -m x")
    written = json.loads(output.read_text())
    assert written["command"] == "python -m x"
    assert written["machine"]["versions"]["jax"]
    assert written["machine"]["cores"] >= 1
    assert written["whole"]
    assert written["cases"][0]["facts"] == {"tokens": 3}
    assert f"Steps: 1 cases, {output}" in capsys.readouterr().out


def make_counter(start: int):
    """A peer that says how often it ran, by failing at the third time."""
    if start < 0:
        raise ValueError(f"cannot count from {start}")
    numbers = iter(range(start, 2))
    return lambda: next(numbers), 5.0


def test_a_peer_apart_runs_in_its_own_process_and_its_faults_are_told():
    peer = side_by_side.apart("counter", make_counter, 0)
    assert peer.work == 5.0
    peer.run()
    peer.run()
    with pytest.raises(RuntimeError, match="StopIteration"):
        peer.run()
    peer.close()
    skipped = side_by_side.apart_or_skipped("counter", make_counter, -1)
    assert skipped == Skipped("counter", "ValueError: cannot count from -1")


def test_the_page_shows_ratios_with_their_spread_and_who_was_skipped():
    clock = Clock()
    case = Case(
        "steps, Tiny",
        "rows",
        (clock.peer("ours", [1]), clock.peer("theirs", [4]), Skipped("torch", "not installed")),
    )
    found = side_by_side.measure(case, repetitions=1, clock=clock.read, rest=lambda _: None)
    result = {
        "title": "Steps",
        "command": "python -m benchmarks.steps",
        "machine": {"processor": "P", "cores": 2, "load_average": [0.5], "versions": {"jax": "1"}},
        "load_average_after": [0.75],
        "whole": True,
        "cases": [found],
    }
    text = benchmarks.all.page([result])
    assert "| steps, Tiny | 8 rows | 4.00 (4.00 to 4.00) |" in text.splitlines()
    assert "P, 2 cores, load 0.5 before and 0.75 after; jax 1." in text
    assert "Skipped: torch (not installed)." in text
    assert "interrupted" not in text
    assert "interrupted" in benchmarks.all.page([{**result, "whole": False}])
    other = {**result, "machine": {**result["machine"], "processor": "Q"}}
    both = benchmarks.all.page([result, other])
    assert both.count("## Steps") == 1
    assert "P, 2 cores" in both and "Q, 2 cores" in both


def test_a_start_in_a_new_process_counts_and_its_fault_is_told(tmp_path):
    caches = iter([str(tmp_path / "first"), str(tmp_path / "second")])
    program = "import os, pathlib; pathlib.Path(os.environ['PD_JAX_CACHE']).mkdir()"
    peer = startup.process("start", program, caches)
    peer.run()
    peer.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    broken = startup.process("start", "raise ImportError('no torch')")
    with pytest.raises(RuntimeError, match="ImportError: no torch"):
        broken.run()


def test_a_tuned_peer_that_labels_has_all_rows_sorted_and_every_one_once():
    pytest.importorskip("torch")
    lengths = np.random.default_rng(0).integers(3, 90, 600)
    tokens = [np.full(length, number) for number, length in enumerate(lengths, start=1)]
    rows = theirs.Rows(tokens, np.zeros(600, np.int32), np.zeros((600, 2), np.float32))
    batches = list(rows.batches(32, order="sorted"))
    counts = np.concatenate([batch["attention_mask"].sum(-1) for batch in batches])
    assert counts.tolist() == sorted(lengths)
    assert sorted(int(ids[0]) for batch in batches for ids in batch["input_ids"]) == [
        *range(1, 601)
    ]
    assert [batch["input_ids"].shape[1] for batch in batches] == [
        max(part) for part in np.split(counts, range(32, 600, 32))
    ]


def test_a_repetition_of_a_pipeline_has_sentences_of_its_own(monkeypatch):
    asked = []
    given = types.SimpleNamespace(pipeline=lambda *_, **__: lambda lines, **_: asked.append(lines))
    monkeypatch.setitem(sys.modules, "transformers", given)
    monkeypatch.setattr(theirs, "keep_memory", lambda: asked.append("memory"))
    numbered = [types.SimpleNamespace(text="x" * number) for number in range(3 * texts.ROWS)]
    monkeypatch.setattr(texts, "sentences", lambda _, count: numbered[:count])
    for tuned in (True, False):
        asked.clear()
        run, count = predict.make_theirs(texts.Work("t", "Tiny", "m", "r"), 2, tuned)
        run()
        run()
        assert (asked[:1] == ["memory"]) == tuned
        first, second = asked[-2:]
        assert len(first) == len(second) == count and not set(first) & set(second)
        with pytest.raises(StopIteration):
            run()
