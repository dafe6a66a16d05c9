"""The part of a recipe that says how class scores are refined before labels are made of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medseg.runs.part import Part

__all__ = ["RefineChoice"]

_OPTIONS = {
    "graph_cut": ("contrast", "smoothness_mm", "connectivity"),
    "dense_crf": (
        "contrast",
        "iterations",
        "bilateral_weight",
        "bilateral_sigma_mm",
        "spatial_weight",
        "spatial_sigma_mm",
        "passes",
    ),
    "expected_dice": (),
}
"""What each method may be given."""


class RefineChoice(Part):
    """How labels are made of all scores together.

    A graph cut and a dense CRF draw borders to where the image has edges, and take specks away; the labels
    of the best expected Dice take in what is uncertain.

    ``refine: graph_cut`` is short for ``refine: {method: graph_cut}``. What is left out is the method's own
    default; see :func:`medseg.classical.graph_cut`, :func:`medseg.classical.dense_crf` and
    :func:`medseg.classical.best_dice_labels`.

    Attributes:
        method: ``"graph_cut"``, ``"dense_crf"`` or ``"expected_dice"``, which has no options.
        contrast: How large a difference in intensity makes a border likely; ``"none"``, of graph cuts:
            intensities do not count.
        smoothness_mm: Price of borders; of graph cuts.
        connectivity: Neighbours that are linked; of graph cuts.
        iterations: Of the mean field; of dense CRFs, as all that follow.
        bilateral_weight: Of the links by distance and intensity.
        bilateral_sigma_mm: Their deviation in space.
        spatial_weight: Of the links by distance alone.
        spatial_sigma_mm: Their deviation.
        passes: Of the lattice.
    """

    method: Literal["graph_cut", "dense_crf", "expected_dice"]
    contrast: PositiveFloat | Literal["none"] | None = None
    smoothness_mm: float | None = Field(default=None, ge=0.0)
    connectivity: Literal["faces", "edges", "corners"] | None = None
    iterations: PositiveInt | None = None
    bilateral_weight: float | None = Field(default=None, ge=0.0)
    bilateral_sigma_mm: PositiveFloat | None = None
    spatial_weight: float | None = Field(default=None, ge=0.0)
    spatial_sigma_mm: PositiveFloat | None = None
    passes: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _options_of_the_method(self) -> RefineChoice:
        if self.method == "dense_crf" and self.contrast == "none":
            raise ValueError("'contrast: none' is of 'method: graph_cut'")
        for other, names in _OPTIONS.items():
            for name in names:
                if name not in _OPTIONS[self.method] and getattr(self, name) is not None:
                    raise ValueError(f"'{name}' is of 'method: {other}'")
        return self

    def options(self) -> dict[str, Any]:
        """What is given, as arguments of the method's function.

        Example:
            >>> RefineChoice(method="graph_cut", contrast="none").options()
            {'contrast': None}
        """
        given = self.model_dump(exclude={"method"}, exclude_none=True)
        return {name: None if value == "none" else value for name, value in given.items()}

    def told(self) -> str:
        """What is done, in a few words.

        Example:
            >>> RefineChoice(method="dense_crf", iterations=5).told()
            'scores refined by dense_crf (iterations 5)'
        """
        given = ", ".join(
            f"{name.replace('_', ' ')} {'none' if value is None else value}"
            for name, value in self.options().items()
        )
        return f"scores refined by {self.method}{f' ({given})' if given else ''}"
