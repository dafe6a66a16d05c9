"""Segment a folder with a bundle, through MONAI's workflow: nothing of medseg is needed.

python bundle_workflow.py BUNDLE IMAGES LABELS
"""

import sys

from monai.bundle import ConfigWorkflow


def main(bundle: str, images: str, labels: str) -> None:
    sys.path.insert(0, bundle)  # for its scripts
    workflow = ConfigWorkflow(
        config_file=f"{bundle}/configs/inference.yaml",
        meta_file=f"{bundle}/configs/metadata.json",
        workflow_type="inference",
        bundle_root=bundle,
        dataset_dir=images,
        output_dir=labels,
    )
    workflow.initialize()
    missing = workflow.check_properties()
    if missing:
        raise SystemExit(f"the bundle lacks {missing}")
    workflow.run()
    workflow.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
