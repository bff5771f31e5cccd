"""The last word of a process that ends without one of its own.

Where a peer is lost, jax ends this process from C++ with stacks for a message; SIGKILL leaves none
at all. A small helper outlives the process and says in one sentence what to do.
"""

import atexit
import subprocess
import sys

_PROGRAM = """
import sys
if not sys.stdin.buffer.read():
    print(sys.argv[1], file=sys.stderr)
"""


def speak_if_ended(sentence: str) -> None:
    """Has `sentence` written on stderr should this process end other than by Python's own exit."""
    helper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, sentence],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # Ctrl-C goes to a whole session, and must not reach the helper first.
        start_new_session=True,
    )

    def dismiss() -> None:
        helper.communicate(b"whole")

    # Called after what was registered later: jax may still end the process in its own clean-up.
    atexit.register(dismiss)
