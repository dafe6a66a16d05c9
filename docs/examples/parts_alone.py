"""Three parts of medseg alone, in an own script: a network, the streaming inferer, and the metrics."""

import torch

from medseg.inference import StreamingInferer
from medseg.metrics import overlap_metrics, surface_metrics
from medseg.networks import build_network


def main() -> None:
    torch.manual_seed(0)
    network = build_network("unet", in_channels=1, out_channels=3, features=(4, 8)).eval()
    image = torch.randn(1, 1, 40, 36, 32)

    labels = StreamingInferer(reduce="argmax")(image, network)[0, 0].numpy()
    with torch.no_grad():
        at_once = network(image)[0].argmax(dim=0).numpy()

    for overlap in overlap_metrics(labels, at_once, [1, 2]):
        print("Dice", round(overlap.dice, 3))
    surface = surface_metrics(labels == 1, at_once == 1, spacing_mm=(1.0, 1.0, 2.0))
    print("Hausdorff distance", surface.hd_mm, "mm")


if __name__ == "__main__":
    main()
