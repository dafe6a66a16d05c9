"""MONAI bundles as segmenters: medseg's own, read as runs, and those of others, as they are configured."""
