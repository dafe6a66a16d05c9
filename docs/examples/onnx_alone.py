"""A bundle's network with ONNX Runtime, and nothing of medseg, MONAI or PyTorch.

For images that lie as the network sees them, in RAS orientation and at its spacing, with one channel that is
brought to mean 0 and deviation 1; any size goes.

python onnx_alone.py BUNDLE/models/model.onnx IMAGE.nii.gz LABELS.nii.gz
"""

import sys

import nibabel
import numpy as np
import onnxruntime


def main(model: str, image: str, labels: str) -> None:
    stored = nibabel.load(image)
    voxels = stored.get_fdata(dtype=np.float32)
    seen = (voxels - voxels.mean(dtype=np.float64)) / voxels.std(dtype=np.float64)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["pred"], {"image": seen[None, None].astype(np.float32)})
    found = scores[0].argmax(axis=0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(found, stored.affine), labels)


if __name__ == "__main__":
    main(*sys.argv[1:])
