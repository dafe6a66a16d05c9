"""A bundle as an operator of MONAI Deploy has it: set up once, then voxels in, labels out, no files.

python deploy_operator.py BUNDLE IMAGE.nii.gz LABELS.nii.gz
"""

import sys

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, SaveImaged


class SegmentationOperator:
    """Holds a bundle's network and transforms; MONAI Deploy's operators call ``compute`` for each image."""

    def setup(self, bundle: str) -> None:
        sys.path.insert(0, bundle)  # for its scripts
        parser = ConfigParser()
        parser.read_config(f"{bundle}/configs/inference.yaml")
        parser["bundle_root"] = bundle
        self.network = parser.get_parsed_content("network").eval()
        weights = torch.load(f"{bundle}/models/model.pt", weights_only=True)
        self.network.load_state_dict(weights)
        self.inferer = parser.get_parsed_content("inferer")
        self.device = parser.get_parsed_content("device")
        self.before = self._without(LoadImaged, parser.get_parsed_content("preprocessing"))
        self.after = self._without(SaveImaged, parser.get_parsed_content("postprocessing"))

    def compute(self, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Labels (X, Y, Z) of an image (C, X, Y, Z), on its own grid."""
        image = MetaTensor(torch.from_numpy(voxels.astype(np.float32)), affine=affine)
        data = self.before({"image": image})
        with torch.no_grad():
            scores = self.inferer(data["image"][None].to(self.device), self.network)
        data["pred"] = MetaTensor(scores[0].as_tensor()).copy_meta_from(data["image"])
        return self.after(data)["pred"][0].cpu().numpy().astype(np.int16)

    @staticmethod
    def _without(kind: type, steps: Compose) -> Compose:
        return Compose([step for step in steps.transforms if not isinstance(step, kind)])


def main(bundle: str, image: str, labels: str) -> None:
    operator = SegmentationOperator()
    operator.setup(bundle)
    stored = nibabel.load(image)
    found = operator.compute(stored.get_fdata()[None], stored.affine)
    nibabel.save(nibabel.Nifti1Image(found, stored.affine), labels)


if __name__ == "__main__":
    main(*sys.argv[1:])
