"""Tile by tile with mirrored borders, as the U-Net paper infers."""

from medseg.inference.overlap_tile.fitting import fit_tiles
from medseg.inference.overlap_tile.inferer import OverlapTileInferer

__all__ = ["OverlapTileInferer", "fit_tiles"]
