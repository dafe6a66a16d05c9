"""What compiled codecs say on standard error while they hand back an image all the same."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["codec_messages"]

_STDERR: Final = 2
_LONGEST_BYTES: Final = 1 << 16


@contextmanager
def codec_messages() -> Iterator[list[str]]:
    """Catch what is written to the process's standard error, below Python's own.

    GDCM's JPEG codec reports a corrupt stream there and nowhere else, and goes on with made-up voxels.

    Yields:
        The lines, there when the context is left.

    Example:
        >>> with codec_messages() as lines:
        ...     _ = os.write(2, b"Corrupt JPEG data: bad Huffman code")
        >>> lines
        ['Corrupt JPEG data: bad Huffman code']
    """
    lines: list[str] = []
    try:
        kept = os.dup(_STDERR)
    except OSError:  # a service without standard error: nobody could write there either
        yield lines
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), _STDERR)
        try:
            yield lines
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            caught.seek(0)
            lines += caught.read(_LONGEST_BYTES).decode("utf-8", "replace").splitlines()
