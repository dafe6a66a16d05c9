"""Files that are read back and compared before they get their name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medseg.errors import MedsegError, ResourceError
from medseg.files import atomic_path, remove_partials_of
from medseg.io.formats import write_unnamed
from medseg.io.read_back import difference_from_file
from medseg.io.values import stored_dtype
from medseg.volume import Volume

__all__ = ["write_and_compare"]


def write_and_compare(
    image: Volume, path: Path, before_it_is_named: Callable[[Path], None] | None = None
) -> None:
    """Write an image, read it back, and compare every voxel and the grid; only then it gets its name.

    What a conversion that was killed left of the same file is taken away first.

    Args:
        image: What to write.
        path: The file; its suffix names the format.
        before_it_is_named: Called with the written file, under its temporary name.

    Raises:
        InputError: The format cannot be written.
        GeometryError: The format cannot hold the grid.
        ResourceError: The disk is full or not writable, or does not give back what was written.
    """
    remove_partials_of(path)
    try:
        with atomic_path(path) as temporary:
            write_unnamed(image, stored_dtype(image.array, labels=False, where=path), temporary, path)
            difference = difference_from_file(image, temporary)
            if difference is not None:
                raise ResourceError(
                    f"read back, it is not what was written: {difference}",
                    fix="check the disk and its memory, and try again",
                )
            if before_it_is_named is not None:
                before_it_is_named(temporary)
    except MedsegError as error:
        error.where = str(path)  # the user knows nothing of the temporary name
        raise
