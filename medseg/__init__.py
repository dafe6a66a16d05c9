"""medseg: 3D medical image segmentation, as a MONAI plugin and a command line."""

__version__ = "0.1.0"
