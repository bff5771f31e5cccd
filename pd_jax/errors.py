"""The errors a user can meet.

Every one is a `PdError` whose message is one sentence: what is wrong, the file, line, key or row at
fault, and the remedy. `main` and the tools print it as `error: ...` and exit with `EXIT_CODE`; a
traceback means a bug in pd_jax.
"""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator

EXIT_CODE = 2
"""Exit status of a command that was refused or failed for a reason the user can act on."""

PREEMPTED_EXIT_CODE = 75
"""Exit status after a signal asked the run to save and stop: run the same command again
(EX_TEMPFAIL).
"""


class PdError(Exception):
    """A fault that the user can act on."""


class ConfigError(PdError):
    """A config that names an unknown key, a value of the wrong kind, or parts that do not fit each
    other.
    """


class SourceError(PdError):
    """Text that cannot be read: a missing file, an empty corpus, a bad row, a label outside the
    label set.
    """


class BrokenRowError(SourceError):
    """A row with too few or too many columns, whose text is null or not text, that is no JSON or
    no UTF-8, or longer than 16 MiB. Correct it, or leave such rows out: `broken_rows='skip'` in a
    config, `--skip-broken-rows` where a tool takes it.
    """

    problem: str
    """The message without its remedies."""

    def __init__(self, problem: str, remedy: str):
        # Both are its arguments, by which a worker process hands it to its parent.
        super().__init__(problem, remedy)
        self.problem, self._remedy = problem, remedy

    def __str__(self) -> str:
        return (
            f"{self.problem}; {self._remedy}, or leave such rows out (broken_rows='skip' in a "
            "config, --skip-broken-rows where a tool takes it)"
        )


class TokenizerError(PdError):
    """A vocabulary or tokenizer file that is damaged, or does not fit the model or records it is
    used with.
    """


class RecordsError(PdError):
    """A dataset folder that is incomplete, damaged, edited, or made for something else."""


class WorkerError(PdError):
    """A process of this machine that was killed while it worked for this one."""


class LogitsError(PdError):
    """Teacher outputs that do not belong, row for row, to the dataset they are used with."""


class WeightsError(PdError):
    """Model weights that are missing, left over, damaged, or of another shape."""


class CheckpointError(PdError):
    """A training checkpoint that cannot be saved, or of which no copy can be trusted."""


class StageError(PdError):
    """A pipeline stage that cannot run or continue."""


class LockError(PdError):
    """A folder that another process is writing to."""


class MeshError(PdError):
    """A mesh, batch or parameter layout that the devices cannot hold."""


class PeerError(MeshError):
    """Another process failed in a way that running the same command again may fix; this one ends
    with `PREEMPTED_EXIT_CODE`, so that launchers restart all of them.
    """


class DivergenceError(PdError):
    """Training whose loss or gradients became NaN or infinite."""


class ReportError(PdError):
    """A workdir with files that a report cannot be made from."""


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_NO_SPACE_TEXTS = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122")
"""The words of libraries that turn the system's error into text (Rust, C++)."""


def causes(fault: BaseException | None) -> Iterator[BaseException]:
    """Yields a fault, its cause, the cause of that, and so on."""
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__


def first_line(fault: BaseException) -> str:
    """Returns the first line of a fault's message, cut to 200 letters; its type without any."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0][:200]


def no_space(fault: BaseException | None) -> str:
    """Returns the system's message if a fault, or one of its causes, is a full disk or an exhausted
    quota; else an empty string.
    """
    for cause in causes(fault):
        full = isinstance(cause, OSError) and cause.errno in _NO_SPACE
        if full or any(text in str(cause) for text in _NO_SPACE_TEXTS):
            return first_line(cause)
    return ""


NO_MEMORY_OF_TORCH = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch says when a GPU is out of memory; XLA says it otherwise."""

_NO_MEMORY_TEXT = re.compile(
    "|".join([r"RESOURCE_EXHAUSTED:.*(memory|allocat|hbm)", *NO_MEMORY_OF_TORCH]), re.I
)


def no_memory(fault: BaseException | None) -> str:
    """Returns the message if a fault, or one of its causes, is a lack of memory on a device or on
    the host; else an empty string.
    """
    for cause in causes(fault):
        message = first_line(cause)
        if isinstance(cause, MemoryError) or _NO_MEMORY_TEXT.search(message):
            return message if str(cause) else "out of memory"
    return ""


def sentence_of(fault: Exception) -> str:
    """Returns the sentence to show for a fault outside of any stage; empty for a bug."""
    if isinstance(fault, PdError):
        return str(fault)
    if isinstance(fault, ImportError) and "gcsfs" in str(fault).lower():
        return "gs:// needs gcsfs, which is not installed; pip install 'pd_jax[gcs]'"
    if isinstance(fault, OSError) and fault.errno in _NO_ACCESS and fault.filename:
        return f"{fault.filename}: {fault.strerror}; fix its permissions or choose another path"
    if message := no_space(fault):
        return f"the disk is full ({message}); free some space and run the same command again"
    if message := no_memory(fault):
        return f"there is not enough memory ({message}); lower the batch, or free memory"
    return ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'X'?` for the known name that looks most like `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
