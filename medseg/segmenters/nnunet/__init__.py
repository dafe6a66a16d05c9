"""Models that nnU-Net v2 trained, gone through as nnU-Net goes through an image."""
