"""A run that gets on is left alone by the watchdog, however long its evaluation takes."""

import faulthandler

from etils import epath

from pd_jax.stages import train
from pd_jax.stages.context import Context
from pd_jax.training import checkpoint
from tests import tiny


def test_a_long_evaluation_that_gets_on_is_no_standstill(tmp_path, monkeypatch):
    """By a clock of the test's own, on which a batch and a save take a second each."""
    tiny.dataset(tmp_path / "train", rows=64)
    tiny.dataset(tmp_path / "dev", rows=50, seed=1)
    now, deadline, evaluated = [0.0], [float("inf")], []
    made, save = train.make_evaluation_step, checkpoint.Checkpoints.save

    def work() -> None:
        now[0] += 1.0
        assert now[0] < deadline[0], "the watchdog ended the process"

    def slow(*arguments, **options):
        step = made(*arguments, **options)

        def one_batch(*inputs):
            work()
            evaluated.append(now[0])
            return step(*inputs)

        return one_batch

    def slow_save(self, *arguments):
        work()
        save(self, *arguments)

    def arm(seconds, **options):
        assert options["exit"]
        deadline[0] = now[0] + seconds

    def disarm():
        deadline[0] = float("inf")

    monkeypatch.setattr(train, "make_evaluation_step", slow)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", slow_save)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", arm)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", disarm)
    evaluation = {"sets": {"dev": str(tmp_path / "dev")}, "batch": 8, "every": {"steps": 2}}
    stage = tiny.stage(tmp_path / "train", length={"steps": 4}, evaluation=evaluation)
    options = tiny.run_options(watchdog_seconds=1.5)
    done = train.run_train(stage, Context("job", epath.Path(tmp_path / "job"), options))
    assert done.steps == 4
    assert len(evaluated) == 2 * 7  # 50 rows at step 2 and at the end, whose scores the stage keeps
