"""Label maps as NIfTI files whose two statements of geometry agree."""

from __future__ import annotations

from os import PathLike
from typing import Any

import nibabel
import numpy as np
from monai.data.image_writer import NibabelWriter

__all__ = ["AgreeingNiftiWriter"]

_TOLERANCE_MM = 1e-3


class AgreeingNiftiWriter(NibabelWriter):  # type: ignore[misc]
    """MONAI's writer, which states a grid twice; of a sheared grid one statement, the qform, would be wrong.

    A qform is a rotation: it cannot hold the shear of a tilted gantry. Such files get none.
    """

    def write(self, filename: str | PathLike[str], verbose: bool = False, **options: Any) -> None:
        """Write the file.

        Args:
            filename: Where to.
            verbose: Whether to say so.
            **options: As MONAI's writer takes them.
        """
        super().write(filename, verbose, **options)
        stated = self.data_obj.get_qform(), self.data_obj.get_sform()
        if not np.allclose(*stated, atol=_TOLERANCE_MM):
            self.data_obj.set_qform(None, code=0)
            nibabel.save(self.data_obj, filename)
