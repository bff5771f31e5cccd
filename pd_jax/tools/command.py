"""Runs a command of `pd_jax.tools`: exit status, and one line for an error the user can fix."""

import os
import sys
from collections.abc import Callable, Sequence

from pd_jax.config.reading import check_home
from pd_jax.errors import EXIT_CODE, sentence_of

_INTERRUPTED = 130
"""The status that shells expect of a process that ctrl-c ended (128 + SIGINT)."""

_BROKEN_PIPE = 141
"""The status of a process that wrote to a pipe that nobody reads any more (128 + SIGPIPE)."""


def run(main: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Returns the status of `main(arguments)`; an error a user can fix becomes a line on stderr."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        for argument in given:
            option, _, value = argument.rpartition("=")  # of --input=~/a no shell replaces the ~
            check_home(value, option or "an argument")
        return main(given)
    except BrokenPipeError:
        # What is left in the buffer has no reader either; without this, Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as fault:
        sentence = sentence_of(fault)
        if not sentence:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return _INTERRUPTED
