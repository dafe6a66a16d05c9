"""Where a NIfTI file says that its voxels lie, and when it is not believed.

A NIfTI header can tell the affine twice, by ``qform`` (rotation, voxel sizes, offset) and by ``sform`` (a
matrix), each with a code that says whether it counts. The rules:

1. A form counts if its code is above zero and it is a valid affine.
2. If both count they must agree within ``GRID_TOLERANCE_VOXELS``: programs differ in which they read, so a
   file in which they disagree would lie elsewhere in another program.
3. The sform is taken if it counts, else the qform. If neither does, the file is refused: voxel sizes alone
   say nothing of left and right.
4. Voxel sizes (``pixdim``) must be finite and not zero, and may not differ from the affine's by more than
   ``PIXDIM_TOLERANCE``, for some programs take the spacing from them.
5. Metres and micrometres are converted; an unknown unit is taken as millimetres, as all programs do.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from medseg.errors import GeometryError
from medseg.geometry import Grid

__all__ = ["PIXDIM_TOLERANCE", "grid_of", "set_grid"]

PIXDIM_TOLERANCE = 0.2
"""Largest relative difference between ``pixdim`` and the affine's spacing.

A gantry tilted by up to 30 degrees puts 1 - cos 30° = 13 % between the distance of slices and the spacing
along the tilted axis, and either may stand in ``pixdim``; more is a contradiction.
"""

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_SPACE_UNIT_BITS = 7
_ALIGNED = 2

FloatArray = npt.NDArray[np.float64]


def grid_of(header: nib.Nifti1Header, shape: tuple[int, int, int], path: Path) -> Grid:
    """The grid of a NIfTI-1 or NIfTI-2 file, by the rules above.

    Raises:
        GeometryError: No form counts, the two disagree, or voxel sizes are invalid or contradict them.
    """
    scale = _mm_per_unit(header, path)
    _require_valid_pixdim(header, path)
    forms = {"sform": _sform(header), "qform": _qform(header)}
    grids: dict[str, Grid] = {}
    reasons: list[str] = []
    for name, affine in forms.items():
        if affine is None:
            continue
        try:
            grids[name] = Grid(shape, _in_mm(affine, scale, header))
        except GeometryError as error:
            reasons.append(f"{name}: {error.what}")
    if not grids:
        raise _no_form(reasons, path)
    if len(grids) == 2:
        _require_agreement(grids["sform"], grids["qform"], path)
    grid = next(iter(grids.values()))
    _require_pixdim_agrees(header, grid, scale, path)
    return grid


def set_grid(header: nib.Nifti1Header, grid: Grid) -> None:
    """Write a grid into a header: as sform, and as qform where a qform can say it (no shear)."""
    header.set_xyzt_units("mm")
    header.set_qform(grid.affine, code=_ALIGNED, strip_shears=True)
    header.set_sform(grid.affine, code=_ALIGNED)
    qform = _qform(header)
    if qform is None or grid.difference(Grid(grid.shape, qform)) is not None:
        header["qform_code"] = 0


def _sform(header: nib.Nifti1Header) -> FloatArray | None:
    return None if header["sform_code"] <= 0 else np.asarray(header.get_sform(), dtype=np.float64)


def _qform(header: nib.Nifti1Header) -> FloatArray | None:
    if header["qform_code"] <= 0:
        return None
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):  # the quaternion is longer than one, or NaN
        return np.full((4, 4), np.nan)


def _in_mm(affine: FloatArray, scale: float, header: nib.Nifti1Header) -> FloatArray:
    scaled = affine.copy()
    scaled[:3] *= scale
    if not isinstance(header, nib.Nifti2Header):
        # NIfTI-1 keeps affines in single precision. Rounded so at once, the grid of an image and that of a
        # label map written for it are equal to the last bit, also if the image has but a qform.
        with np.errstate(over="ignore"):
            scaled = scaled.astype(np.float32).astype(np.float64)
    return scaled


def _mm_per_unit(header: nib.Nifti1Header, path: Path) -> float:
    code = int(header["xyzt_units"]) & _SPACE_UNIT_BITS
    if code not in _MM_PER_UNIT:
        raise GeometryError(
            f"unit of length {code} (xyzt_units) is none of metre, millimetre and micrometre",
            where=path,
            fix="set xyzt_units to 2 (mm) if that is what the affine is in",
        )
    return _MM_PER_UNIT[code]


def _require_valid_pixdim(header: nib.Nifti1Header, path: Path) -> None:
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(sizes).all() or (sizes == 0.0).any():
        raise GeometryError(
            f"spacing (pixdim) {'x'.join(f'{size:g}' for size in sizes)} has a zero, NaN or infinite value",
            where=path,
            fix="repair the header from the scanner's own files",
        )


def _require_pixdim_agrees(header: nib.Nifti1Header, grid: Grid, scale: float, path: Path) -> None:
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)) * scale
    ratio = sizes / np.asarray(grid.spacing_mm)
    if (np.abs(ratio - 1.0) > PIXDIM_TOLERANCE).any():
        shown = ["x".join(f"{size:.4g}" for size in lengths) for lengths in (sizes, grid.spacing_mm)]
        raise GeometryError(
            f"pixdim says the spacing is {shown[0]} mm, the affine {shown[1]} mm",
            where=path,
            fix="repair whichever is wrong (nibabel: img.header.set_zooms, img.set_sform)",
        )


def _require_agreement(sform: Grid, qform: Grid, path: Path) -> None:
    difference = sform.difference(qform)
    if difference is None:
        return
    distance = float(np.linalg.norm(sform.corners_mm() - qform.corners_mm(), axis=1).max())
    raise GeometryError(
        f"qform and sform disagree by up to {distance:.3g} mm: the qform has {difference}",
        where=path,
        fix="set the code of the wrong one to 0 (nibabel: img.header['qform_code'] = 0) and save it again",
    )


def _no_form(reasons: list[str], path: Path) -> GeometryError:
    if reasons:
        return GeometryError(" and ".join(reasons), where=path, fix="repair the header")
    return GeometryError(
        "gives no orientation (qform_code and sform_code are 0), and left and right are not guessed",
        where=path,
        fix="convert it again from the source, or, if you know its affine, set it (nibabel: img.set_sform)",
    )
