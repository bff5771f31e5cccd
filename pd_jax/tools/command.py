"""How every command of `pd_jax.tools` ends: a status, and one line for what the user can mend."""

import os
import sys
from collections.abc import Callable, Sequence

from pd_jax.errors import EXIT_CODE, PdError

_INTERRUPTED = 130
"""The status that shells expect of a process that ctrl-c ended (128 + SIGINT)."""

_BROKEN_PIPE = 141
"""The status of a process that wrote to a pipe nobody read any more (128 + SIGPIPE)."""


def run(main: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Returns the status of `main(arguments)`; a PdError becomes a line on stderr and EXIT_CODE."""
    try:
        return main(arguments)
    except PdError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return EXIT_CODE
    except BrokenPipeError:
        # What is left in the buffer has no reader either; without this, Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return _INTERRUPTED
