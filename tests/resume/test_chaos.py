"""A few ends of the quick start's smoke run; `python -m tests.chaos` makes many."""

import pytest

from configs import quickstart
from tests import chaos


@pytest.mark.slow
def test_a_chain_that_was_ended_again_and_again_leaves_what_a_quiet_one_does():
    with chaos.arena("configs/quickstart.py:smoke") as place:
        found = chaos.run_chaos(place, kills=3, seed=1)
    assert sum(found["ends"].values()) == 3
    assert len(found["stages"]) == len(quickstart.get_config("smoke").stages)
    assert found["differing"] == []
    assert found["faults"] == []


def test_a_difference_is_found():
    quiet = {"pd-1": {"model": "a", "metrics.jsonl": "b"}, "pf-2": {"model": "c"}}
    disturbed = {"pd-1": {"model": "a", "metrics.jsonl": "x"}}
    assert chaos.differences(quiet, disturbed) == ["pd-1/metrics.jsonl", "pf-2/model"]
    assert chaos.differences(quiet, quiet) == []
