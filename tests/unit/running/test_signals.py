"""A signal that asks to stop is heard wherever the process is just then."""

import signal
import subprocess
import sys
import textwrap


def test_a_stop_that_falls_into_a_callback_of_the_garbage_collection_is_raised_again():
    program = """
        import gc, os, signal, time
        from pd_jax.signals import Stopped, stop_on

        stop_on(signal.SIGTERM)
        sent = []

        def collecting(phase, info):
            if not sent:
                sent.append(phase)
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)  # the handler runs here, where Python swallows what it raises

        gc.callbacks.append(collecting)
        try:
            gc.collect()
            print("swallowed", flush=True)
            time.sleep(20)
        except Stopped as stopped:
            print(stopped, stopped.exit_code)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["swallowed", "SIGTERM", "75"], ended
    assert ended.stderr == ""
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # nothing was changed here
