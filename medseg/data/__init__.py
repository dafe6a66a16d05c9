"""Datasets: what there is, how to fetch it, how folders lay it out, whether it is sound, how it splits."""

from __future__ import annotations

from medseg.data.layouts import Dataset, load_dataset, split_dataset
from medseg.data.splits import Split, make_split

__all__ = ["Dataset", "Split", "load_dataset", "make_split", "split_dataset"]
