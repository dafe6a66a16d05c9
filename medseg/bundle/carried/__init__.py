"""What a bundle carries in its folder ``scripts`` beside the network: what MONAI has no transform for.

Each file stands alone: it imports torch, MONAI, NumPy and SciPy, and nothing of the package that it lies in.
"""
