"""Building parts that every network shares, in two and three dimensions. Imports torch alone.

A bundle carries a network's file and this folder, and nothing else of medseg; bad options are therefore
``ValueError`` here, written as "what is wrong; how to fix it", and :func:`medseg.networks.build_network`
turns them into medseg's own errors.

Nothing here branches on a tensor's value, so that whatever is built of these blocks can be captured by
``torch.export``, ``torch.fx`` and ``torch.jit``.
"""

from medseg.networks.blocks.attention import AttentionGate, GatedConcat, open_gates
from medseg.networks.blocks.base import SegmentationNetwork
from medseg.networks.blocks.context import CONTEXTS, ContextModule, WithContext
from medseg.networks.blocks.instance_norm import InstanceNorm2d, InstanceNorm3d
from medseg.networks.blocks.layers import (
    ACTIVATIONS,
    NORMS,
    ConvBlock,
    ConvStack,
    activation_layer,
    convolution,
    he_initialise,
    max_pool,
    norm_layer,
    sliding_max_pool,
    transposed_convolution,
)
from medseg.networks.blocks.levels import UNITS, ConvEncoder, dilate_instead, level_geometry
from medseg.networks.blocks.operators import (
    UPSAMPLING,
    BedOfNails,
    CubicInterpolation,
    linear_interpolation,
    nearest_neighbour,
    transposed_operator,
    upsampling_layer,
)
from medseg.networks.blocks.options import (
    check_images,
    choice,
    is_symbolic,
    per_axis,
    positive,
    probability,
)
from medseg.networks.blocks.permutohedral import PermutohedralLattice
from medseg.networks.blocks.pyramid import JoinedPyramid, SummedPyramid
from medseg.networks.blocks.random_field import BilateralKernel, SpatialKernel, mean_field, potts
from medseg.networks.blocks.residual import ResidualEncoder, ResidualUnit, shrink_branches
from medseg.networks.blocks.unpooling import (
    MaxUnpool,
    PoolingEncoder,
    UnpoolingDecoder,
    max_pool_with_indices,
)
from medseg.networks.blocks.upsampling import (
    CropConcat,
    LinearUpsample,
    TransposedUpsample,
    crop_like,
    linear_resize,
)
from medseg.networks.blocks.wrapped import WrappedNetwork

__all__ = [
    "ACTIVATIONS",
    "CONTEXTS",
    "NORMS",
    "UNITS",
    "UPSAMPLING",
    "AttentionGate",
    "BedOfNails",
    "BilateralKernel",
    "ContextModule",
    "ConvBlock",
    "ConvEncoder",
    "ConvStack",
    "CropConcat",
    "CubicInterpolation",
    "GatedConcat",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "JoinedPyramid",
    "LinearUpsample",
    "MaxUnpool",
    "PermutohedralLattice",
    "PoolingEncoder",
    "ResidualEncoder",
    "ResidualUnit",
    "SegmentationNetwork",
    "SpatialKernel",
    "SummedPyramid",
    "TransposedUpsample",
    "UnpoolingDecoder",
    "WithContext",
    "WrappedNetwork",
    "activation_layer",
    "check_images",
    "choice",
    "convolution",
    "crop_like",
    "dilate_instead",
    "he_initialise",
    "is_symbolic",
    "level_geometry",
    "linear_interpolation",
    "linear_resize",
    "max_pool",
    "max_pool_with_indices",
    "mean_field",
    "nearest_neighbour",
    "norm_layer",
    "open_gates",
    "per_axis",
    "positive",
    "potts",
    "probability",
    "shrink_branches",
    "sliding_max_pool",
    "transposed_convolution",
    "transposed_operator",
    "upsampling_layer",
]
