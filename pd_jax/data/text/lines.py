"""Lines and documents of a text file, entire or in byte ranges, with their places for messages.

A file is divided without reading it first: each range takes the lines (or documents) that begin in
it. A document begins at a line after a blank one, and also at the first line of every MiB of the
file. Thus a reader that starts anywhere finds the same documents as one that started at the top,
and a file without blank lines is not one single document.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from etils import epath

from pd_jax.errors import BrokenRowError, SourceError

DOCUMENT_BYTES = 1 << 20
"""A document is cut at the first line that begins in each block of this many bytes."""

SENTENCE_BYTES = 1 << 16
"""A line of a document longer than this is read as several sentences, cut at spaces."""

ROW_BYTES = 1 << 24
"""The longest row allowed: its id is a digest of the whole text, and memory is bounded."""

_BUFFER_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_COMPRESSED = re.compile(
    rb"(?P<gzip>\x1f\x8b)|(?P<zstd>\x28\xb5\x2f\xfd)|(?P<bzip2>BZh[1-9]1AY&SY)"
    rb"|(?P<xz>\xfd7zXZ\x00)|(?P<zip>PK\x03\x04)"
)
"""The first bytes of compressed files, by the compression's name."""
_HEAD_BYTES = 10
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Origin:
    """A file and the byte from which lines are numbered; counts those before it on demand."""

    def __init__(self, path: str, *, begin: int = 0, unit: str = ""):
        self._path, self._begin, self._unit = path, begin, unit
        self._before: int | None = None

    def name(self, number: int) -> str:
        """Returns `file:line` for the line (or row) `number`, 1 where reading began."""
        if self._before is None:
            self._before = self._count()
        return f"{self._path}:{self._unit}{self._before + number}"

    def _count(self) -> int:
        if not self._begin:
            return 0
        count, left = 0, self._begin
        with epath.Path(self._path).open("rb") as stream:
            while left and (chunk := stream.read(min(left, _BUFFER_BYTES))):
                count += chunk.count(b"\n")
                left -= len(chunk)
        return count


class Line(NamedTuple):
    """A line, or a part of a long one: its number from 1 where reading began, and its bytes."""

    number: int
    content: bytes


@contextmanager
def opened(path: str, *, zipped: bool) -> Iterator[IO[bytes]]:
    """Yields the (uncompressed) byte stream of a file.

    Raises:
      SourceError: where the file cannot be read, or is compressed otherwise than its name says.
    """
    try:
        with epath.Path(path).open("rb") as raw:
            _check_compression(path, _head(raw), zipped=zipped)
            if zipped:
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield io.BufferedReader(stream, _BUFFER_BYTES)
            else:
                yield raw
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise SourceError(f"{path} is a damaged gzip file ({fault}); copy it again") from None
    except OSError as fault:
        raise SourceError(
            f"{path} cannot be read ({fault.strerror or fault}); check its permissions and disk"
        ) from None


def _check_compression(path: str, head: bytes, *, zipped: bool) -> None:
    """Raises SourceError where a file's first bytes are those of a compression that is not undone:
    any but gzip, and gzip unless it is `zipped` by name.
    """
    found = _COMPRESSED.match(head)
    if found is None or (zipped and found.lastgroup == "gzip"):
        return
    if found.lastgroup == "gzip":
        raise SourceError(f"{path} is compressed by gzip; add .gz to its name")
    raise SourceError(
        f"{path} is compressed by {found.lastgroup}; unpack it, or compress it with gzip"
    )


def _head(stream: IO[bytes]) -> bytes:
    """Returns a stream's first bytes, which stay in it; a pipe cannot be read twice."""
    if isinstance(stream, io.BufferedReader):
        return stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    return head


def decode(content: bytes, origin: Origin, number: int) -> str:
    """Returns the text of a line.

    Raises:
      BrokenRowError: naming file and line, where the bytes are not UTF-8, or more than ROW_BYTES.
    """
    if len(content) > ROW_BYTES:
        raise BrokenRowError(
            f"{origin.name(number)} is longer than {ROW_BYTES >> 20} MiB",
            "break its text into several rows",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as fault:
        likely = "UTF-16" if content.startswith(_UTF16) else "LATIN1"
        raise BrokenRowError(
            f"{origin.name(number)} is not UTF-8 (byte 0x{content[fault.start]:02x} at position"
            f" {fault.start + 1})",
            f"convert the file, for example with iconv -f {likely} -t UTF-8",
        ) from None


def decode_header(content: bytes, origin: Origin) -> str:
    """Returns the text of a file's first line, without which no row can be read.

    Raises:
      SourceError: as `decode`.
    """
    try:
        return decode(content, origin, 1)
    except BrokenRowError as fault:
        raise SourceError("; ".join(fault.args)) from None


def plain(line: Line, origin: Origin) -> str:
    """Returns a line of plain text, stripped.

    Raises:
      SourceError: where the file's first line has carriage returns for ends; otherwise as `decode`.
    """
    if line.number == 1 and b"\r" in line.content.strip():
        raise SourceError(
            f"{origin.name(line.number)} has a carriage return inside a line; convert the file's"
            " line endings, for example with tr '\\r' '\\n'"
        )
    return decode(line.content, origin, line.number).strip()


def row_lines(stream: IO[bytes], *, begin: int, end: int | None) -> Iterator[Line]:
    """Yields the lines that begin at bytes `begin <= offset < end`, without their line ends.

    They are numbered from the line that holds byte `begin - 1`, or from the top of the file. Of a
    line longer than ROW_BYTES so much comes that `decode` refuses it.
    """
    offset = 0
    if begin:
        # Stepping back one byte keeps a line that begins exactly at `begin`.
        stream.seek(begin - 1)
        offset = begin - 1
        while chunk := stream.readline(_BUFFER_BYTES):
            offset += len(chunk)
            if chunk.endswith(b"\n"):
                break
    number = 1 if begin else 0
    while end is None or offset < end:
        content = stream.readline(ROW_BYTES + 1)
        if not content:
            return
        number += 1
        whole = content.endswith(b"\n") or len(content) <= ROW_BYTES
        yield Line(number, _clean(content, offset).rstrip(b"\r\n") if whole else content)
        offset += len(content)
        while not whole and (chunk := stream.readline(_BUFFER_BYTES)):
            offset += len(chunk)
            whole = chunk.endswith(b"\n")


def documents(stream: IO[bytes], *, begin: int, end: int | None) -> Iterator[list[Line]]:
    """Yields the documents that begin at bytes `begin <= offset < end`, as lines, none blank.

    Lines are numbered from the line that holds byte `begin - 1`, or from the top of the file.
    """
    offset = line_start(stream, begin) if begin else 0
    if begin:
        stream.seek(offset)
    number, size = 0, 0
    after_blank, before = not begin, offset
    document: list[Line] | None = None
    for part in _parts(stream, offset):
        if part.starts_line:
            number += 1
            blank = not part.content.strip()
            fresh = not blank and (
                after_blank or part.offset // DOCUMENT_BYTES > before // DOCUMENT_BYTES
            )
            if (blank or fresh) and document:
                yield document
            if blank or fresh:
                if end is not None and part.offset >= end:
                    return
                document, size = ([] if fresh else None), 0
            after_blank, before = blank, part.offset
        if document is not None:
            document.append(Line(number, part.content))
            size += len(part.content)
            if size > 2 * DOCUMENT_BYTES:  # one line that is longer than documents may be
                yield document
                document, size = [], 0
    if document:
        yield document


def line_start(stream: IO[bytes], offset: int) -> int:
    """Returns where the line that holds byte `offset - 1` begins, in a stream that can seek."""
    width, end = 1 << 12, offset - 1
    while end > 0:
        begin = max(0, end - width)
        stream.seek(begin)
        found = stream.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        width, end = width * 2, begin
    return 0


class _Part(NamedTuple):
    offset: int
    content: bytes
    starts_line: bool


def _parts(stream: IO[bytes], offset: int) -> Iterator[_Part]:
    """Yields lines, long ones in parts cut at a space or, without one, between characters.

    A line's first part has text, unless all of the line is blank.
    """
    rest, starts_line, line_at = b"", True, offset
    while content := rest + stream.readline(SENTENCE_BYTES):
        cut = _cut(content)
        content, rest = content[:cut], content[cut:]
        cleaned, ends_line = _clean(content, offset), content.endswith(b"\n")
        offset += len(content)
        if starts_line and not ends_line and not cleaned.strip():
            continue
        yield _Part(line_at, cleaned, starts_line)
        starts_line, line_at = ends_line, offset


def _cut(content: bytes) -> int:
    """Returns where to cut what was read of a line: at its end, unless the line is long."""
    if content.endswith(b"\n") or len(content) < SENTENCE_BYTES:
        return len(content)
    space = content.rfind(b" ", SENTENCE_BYTES // 2)
    if space >= 0:
        return space
    last = len(content) - 4
    # A character has four bytes at most; what has more that continue one is refused as no UTF-8.
    starts = (at for at in range(last, last - 4, -1) if content[at] & 0xC0 != 0x80)
    return next(starts, last)


def _clean(content: bytes, offset: int) -> bytes:
    """Returns content without the byte order mark that some programs put before a file's text."""
    return content if offset else content.removeprefix(_BYTE_ORDER_MARK)
