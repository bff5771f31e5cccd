"""A last message for a process that ends without one of its own.

When a peer is lost, jax ends this process from C++ with a stack dump; SIGKILL leaves no message at
all. A small helper outlives the process and prints one sentence on what to do.
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
    """Prints `sentence` to stderr if this process ends in any way but Python's own exit."""
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
