"""What hypothesis draws for the types of the ground floor: ``st.from_type(Grid)`` and the like."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.geometry import AxisMap, Grid

_lengths_mm = st.floats(0.2, 9.0).map(lambda length: round(length, 3))
_axis_maps = st.builds(
    AxisMap,
    st.permutations([0, 1, 2]).map(tuple),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)


@st.composite
def _grids(draw: st.DrawFn) -> Grid:
    """Small grids of any orientation and handedness, oblique, some of them sheared."""
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(draw(st.tuples(*[_lengths_mm] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300).map(lambda length: round(length, 2))] * 3))
    affine[1, 2] = draw(st.sampled_from([0.0, 0.1, -0.3])) * affine[2, 2]
    degrees = draw(st.tuples(*[st.integers(-40, 40)] * 3))
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ affine[:3, :3]
    return Grid(shape, affine).mapped(draw(_axis_maps))


st.register_type_strategy(AxisMap, _axis_maps)
st.register_type_strategy(Grid, _grids())
