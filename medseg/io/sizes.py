"""Sizes are checked before memory is taken: headers may lie, and machines are finite."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import ConfigError, InputError, ResourceError

__all__ = [
    "available_memory_bytes",
    "format_bytes",
    "parse_bytes",
    "require_in_file",
    "require_memory",
    "resident_bytes",
]

_DEFLATE_LARGEST_RATIO = 1032
"""Deflate spends at least two bits on 258 equal bytes (RFC 1951), so nothing expands by more than this."""

_CGROUP = Path("/sys/fs/cgroup")


def format_bytes(count: float) -> str:
    """Bytes in decimal units.

    Example:
        >>> format_bytes(352), format_bytes(27e12)
        ('352 bytes', '27.0 TB')
    """
    if count < 1000:
        return f"{count:.0f} bytes"
    power = min(int(math.log10(count)) // 3, 6)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power - 1]}"


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_bytes(text: str, where: str) -> int:
    """Bytes of a size that a person wrote: in decimal units, or binary ones with an ``i``.

    Args:
        text: Such as ``"4GB"``, ``"512 MB"``, ``"2GiB"`` or ``"1.5g"``.
        where: The option, for the error.

    Raises:
        ConfigError: It is no size.

    Example:
        >>> parse_bytes("4GB", "--max-ram"), parse_bytes("2 GiB", "--max-ram")
        (4000000000, 2147483648)
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"'{text}' is no size of memory", where=where, fix="write it as 4GB, 512MB or 2GiB")
    number, unit, binary = found.groups()
    step = 1024 if binary else 1000
    return int(float(number) * step ** " kmgt".index(unit.lower() or " "))


def require_in_file(
    announced_bytes: int,
    stored_bytes: int,
    *,
    compressed: bool,
    shape: Sequence[int],
    where: str | os.PathLike[str],
) -> None:
    """Check that a file can hold the voxels that its header announces.

    Args:
        announced_bytes: Size of the voxels by the header.
        stored_bytes: What the file holds of them, as it lies on the disk.
        compressed: Whether the voxels are deflated (gzip, zlib).
        shape: The announced shape, for the error.
        where: The file.

    Raises:
        InputError: The file is truncated, or its header wrong.
    """
    largest = stored_bytes * _DEFLATE_LARGEST_RATIO if compressed else stored_bytes
    if announced_bytes <= largest:
        return
    sizes = "x".join(map(str, shape))
    raise InputError(
        f"the header announces {sizes} voxels, {format_bytes(announced_bytes)}, but the file holds "
        f"{format_bytes(max(stored_bytes, 0))}{' (compressed)' if compressed else ''}: it is truncated or "
        "its header is damaged",
        where=where,
        fix="copy or export it again",
    )


def require_memory(needed_bytes: int, where: str | os.PathLike[str]) -> None:
    """Check that reading a volume fits into the memory that is free now.

    Raises:
        ResourceError: It does not; the error gives both figures.
    """
    available = available_memory_bytes()
    if needed_bytes > available:
        raise ResourceError(
            f"needs {format_bytes(needed_bytes)} of memory to be read, {format_bytes(available)} are free",
            where=where,
            fix="close other programs, use a larger machine, or crop or resample the image",
        )


def available_memory_bytes() -> int:
    """Memory that this process can still take: the machine's, or what is left of its container's limit."""
    left = _machine_memory_bytes()
    limit, used = _read_count(_CGROUP / "memory.max"), _read_count(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        left = min(left, max(limit - used + _reclaimable_bytes(), 0))
    return left


def resident_bytes() -> int:
    """Memory that this process takes now; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # not Linux
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _machine_memory_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return _physical_memory_bytes()
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _physical_memory_bytes()


def _physical_memory_bytes() -> int:
    if not hasattr(os, "sysconf"):  # Windows: the allocation itself has to fail
        return 2**63 - 1
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reclaimable_bytes() -> int:
    """Cached file contents count as used, but give way when memory is asked for."""
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _read_count(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
