"""How every command of `pd_jax.tools` ends: a status, and one line for what the user can mend."""

import sys
from collections.abc import Callable, Sequence

from pd_jax.errors import EXIT_CODE, PdError

_INTERRUPTED = 130
"""The status that shells expect of a process that ctrl-c ended (128 + SIGINT)."""


def run(main: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Returns the status of `main(arguments)`; a PdError becomes a line on stderr and EXIT_CODE."""
    try:
        return main(arguments)
    except PdError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return _INTERRUPTED
