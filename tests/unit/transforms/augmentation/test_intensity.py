from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import AdjustContrast
from scipy import ndimage
from torch.nn import functional

from medseg.errors import InputError
from medseg.transforms import Augmenter
from medseg.transforms.augmentation import (
    BiasFieldDraw,
    GammaDraw,
    GhostingDraw,
    IntensityDraw,
    MotionDraw,
    NoiseDraw,
)
from medseg.transforms.augmentation.axis_maps import blur_matrix, ghosting_matrix, low_resolution_matrix
from medseg.transforms.augmentation.draws import BIAS_TERMS
from medseg.transforms.augmentation.intensity import apply_bias_field, change_intensities

SHAPE = (12, 10, 8)


def _image(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_nothing_drawn_gives_the_same_tensor() -> None:
    image = _image()
    assert change_intensities(image, IntensityDraw()) is image


ALL = [
    IntensityDraw(motion=MotionDraw(0, 2, (0.3, 0.8), ((0.0, 1.0), (0.5, 0.0), (1.0, -1.0)))),
    IntensityDraw(ghosting=GhostingDraw(1, 2, 0.5)),
    IntensityDraw(blur_voxels=(1.0, 0.6, 0.1)),
    IntensityDraw(low_resolution=(2.0, 1.5, 1.0)),
    IntensityDraw(bias_field=BiasFieldDraw(tuple(np.linspace(-1, 1, len(BIAS_TERMS)).tolist()), 0.4)),
    IntensityDraw(noise=NoiseDraw(0.1, 5)),
    IntensityDraw(brightness=1.2),
    IntensityDraw(contrast=0.8),
    IntensityDraw(gamma=GammaDraw(1.4, inverted=False)),
    IntensityDraw(gamma=GammaDraw(1.4, inverted=True)),
]


@pytest.mark.parametrize("draw", ALL)
def test_each_change_is_a_function_that_leaves_its_input_alone(draw: IntensityDraw) -> None:
    image = _image()
    before = image.clone()
    first, again = change_intensities(image, draw), change_intensities(image, draw)
    assert torch.equal(image, before)
    assert torch.equal(first, again)
    assert not torch.allclose(first, image)
    assert first.shape == image.shape
    assert first.is_contiguous()


@pytest.mark.parametrize("draw", ALL)
@pytest.mark.parametrize("shape", [SHAPE, (9, 1, 5), (1, 1, 1)])
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_an_image_of_one_value_stays_finite(
    draw: IntensityDraw, shape: tuple[int, int, int], value: float
) -> None:
    changed = change_intensities(torch.full(shape, value), draw)
    assert bool(changed.isfinite().all())
    if draw.noise is None and draw.brightness is None:
        torch.testing.assert_close(changed, torch.full(shape, value), atol=1e-5, rtol=0)


def test_blur_is_scipys_away_from_the_border() -> None:
    image = _image((20, 18, 16))
    blurred = change_intensities(image, IntensityDraw(blur_voxels=(1.0, 0.7, 0.01)))
    expected = ndimage.gaussian_filter(
        image.numpy().astype(float), (1.0, 0.7, 0.0), mode="constant", truncate=4
    )
    np.testing.assert_allclose(blurred.numpy()[4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.floats(0.2, 3.0), st.floats(1.0, 4.0))
def test_weights_of_neighbours_share_out_one(voxels: int, sigma: float, factor: float) -> None:
    for matrix in (blur_matrix(voxels, sigma), low_resolution_matrix(voxels, factor)):
        assert matrix.min() >= 0.0
        torch.testing.assert_close(matrix.sum(1), torch.ones(voxels))


@pytest.mark.parametrize("factor", [2, 3])
def test_larger_voxels_are_means_interpolated_back(factor: int) -> None:
    image = _image((12, 18, 6))
    coarse = functional.avg_pool3d(image[None, None], factor)
    expected = functional.interpolate(coarse, size=image.shape, mode="trilinear", align_corners=False)
    changed = change_intensities(image, IntensityDraw(low_resolution=(float(factor),) * 3))
    torch.testing.assert_close(changed, expected[0, 0], atol=1e-5, rtol=0)


def test_blur_and_coarseness_are_lengths_in_millimetres(make_augmenter: Callable[..., Augmenter]) -> None:
    augmenter = make_augmenter(
        blur_probability=1.0, low_resolution_probability=1.0, spacing_mm=(0.5, 1.0, 4.0)
    )
    for seed in range(10):
        (draw,) = augmenter.draw(np.random.default_rng(seed)).channels
        blur, coarse = np.asarray(draw.blur_voxels), np.asarray(draw.low_resolution)
        np.testing.assert_allclose(blur * (0.5, 1.0, 4.0), blur[0] * 0.5)
        assert 1.0 <= coarse[0] <= 2.0
        assert coarse[1:].tolist() == [1.0, 1.0]  # these voxels are as large already


@pytest.mark.parametrize(("voxels", "period"), [(12, 2), (12, 3), (15, 5), (13, 4)])
def test_ghosts_by_fourier_transform(voxels: int, period: int) -> None:
    line = np.random.default_rng(0).normal(size=voxels)
    spectrum = np.fft.fft(line)
    weak = np.abs(np.fft.fftfreq(voxels, 1 / voxels)).round().astype(int) % period == 0
    weak[0] = False
    expected = np.fft.ifft(spectrum * np.where(weak, 0.4, 1.0)).real
    ghosts = ghosting_matrix(voxels, period, 0.6).numpy() @ line
    np.testing.assert_allclose(ghosts, expected, atol=1e-5)
    # Parseval: what is lost is the energy of the weak lines.
    lost = (np.abs(spectrum[weak]) ** 2).sum() * (1 - 0.4**2) / voxels
    assert (line**2).sum() - (ghosts**2).sum() == pytest.approx(lost, abs=1e-4)
    assert ghosts.mean() == pytest.approx(line.mean(), abs=1e-6)


def test_a_ghost_is_a_faint_copy_elsewhere() -> None:
    image = torch.zeros(12, 4, 4)
    image[2, 1, 1] = 12.0
    ghosted = change_intensities(image, IntensityDraw(ghosting=GhostingDraw(0, 3, 0.5)))[:, 1, 1]
    # A third of the lines loses a half: -1/6 at three places, and the mean of 1 keeps the half it would lose.
    expected = torch.full((12,), 0.5)
    expected[2] += 12.0 * (1 - 0.5 / 3)
    expected[[6, 10]] -= 12.0 * 0.5 / 3
    torch.testing.assert_close(ghosted, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("phase", "readout"), [(0, 1), (1, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("shape", [SHAPE, (9, 7, 5)])
def test_motion_by_nothing_and_by_the_same_for_all_changes_nothing(
    phase: int, readout: int, shape: tuple[int, int, int]
) -> None:
    image = _image(shape)
    for place in ((0.0, 0.0), (1.5, -2.0)):
        still = MotionDraw(phase, readout, (0.3, 0.7), (place,) * 3)
        torch.testing.assert_close(
            change_intensities(image, IntensityDraw(motion=still)), image, atol=1e-5, rtol=0
        )


def test_lines_acquired_after_a_movement_are_those_of_the_moved_image() -> None:
    image = _image((8, 6, 5))
    # Lines -4 … 3; the patient moves by (1, 2) voxels before line 2 of the higher half is acquired.
    draw = MotionDraw(0, 1, (6 / 8,), ((0.0, 0.0), (1.0, 2.0)))
    moved = change_intensities(image, IntensityDraw(motion=draw))
    still = np.fft.fft2(image.numpy(), axes=(0, 1))
    later = np.fft.fft2(np.roll(image.numpy(), (1, 2), (0, 1)), axes=(0, 1))
    after = np.isin(np.fft.fftfreq(8, 1 / 8).round(), (2, 3))[:, None, None]
    mixed = np.where(after, later, still)
    # Half of the columns are acquired, the others are their conjugates.
    np.testing.assert_allclose(
        moved.numpy(), np.fft.irfft(np.fft.ifft(mixed, axis=0)[:, :4], 6, axis=1), atol=1e-5
    )
    assert moved.mean() == pytest.approx(float(image.mean()), abs=1e-6)


def test_mr_artefacts_are_drawn_for_mr_alone_and_within_slices(
    make_augmenter: Callable[..., Augmenter],
) -> None:
    augmenter = make_augmenter(
        ct_channels=(True, False),
        spacing_mm=(0.7, 8.0, 0.7),
        motion_probability=1.0,
        ghosting_probability=1.0,
        bias_field_probability=1.0,
    )
    axes = set()
    for seed in range(30):
        ct, mr = augmenter.draw(np.random.default_rng(seed)).channels
        assert ct == IntensityDraw()
        assert mr.motion is not None
        assert mr.ghosting is not None
        assert mr.bias_field is not None
        assert {mr.motion.phase_axis, mr.motion.readout_axis} == {0, 2}
        assert len(mr.motion.voxels) == len(mr.motion.times) + 1
        axes.add(mr.ghosting.axis)
        assert 0.2 <= mr.ghosting.loss <= 0.6
    assert axes == {0, 2}


def test_a_bias_field_of_one_changes_nothing() -> None:
    image = _image()
    flat = apply_bias_field(image, BiasFieldDraw((1.0,) * len(BIAS_TERMS), 0.0))
    torch.testing.assert_close(flat, image, atol=1e-6, rtol=0)
    nothing = apply_bias_field(image, BiasFieldDraw((0.0,) * len(BIAS_TERMS), 0.5))
    torch.testing.assert_close(nothing, image, atol=1e-6, rtol=0)


def test_a_bias_field_is_the_exponential_of_its_polynomial() -> None:
    terms = np.random.default_rng(0).uniform(-1, 1, len(BIAS_TERMS))
    image = torch.ones(5, 6, 7)
    image[0, 0, 0] = 0.0  # air
    field = apply_bias_field(image, BiasFieldDraw(tuple(terms.tolist()), 0.3)).numpy()
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in (5, 6, 7)), indexing="ij")
    log = sum(
        c * places[0] ** i * places[1] ** j * places[2] ** k
        for c, (i, j, k) in zip(terms, BIAS_TERMS, strict=True)
    )
    log = (log - (log.min() + log.max()) / 2) / np.ptp(log) * 2 * 0.3
    expected = np.exp(log)
    expected[0, 0, 0] = 0.0
    np.testing.assert_allclose(field, expected, atol=1e-5)
    with pytest.raises(InputError, match="19 are needed"):
        BiasFieldDraw((1.0,), 0.3)


def test_noise_has_its_deviation_and_comes_again() -> None:
    zeros = torch.zeros(40, 40, 40)
    noisy = change_intensities(zeros, IntensityDraw(noise=NoiseDraw(0.3, 7)))
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.02)
    assert float(noisy.mean()) == pytest.approx(0.0, abs=0.01)
    assert torch.equal(noisy, change_intensities(zeros, IntensityDraw(noise=NoiseDraw(0.3, 7))))
    assert not torch.equal(noisy, change_intensities(zeros, IntensityDraw(noise=NoiseDraw(0.3, 8))))


def test_contrast_keeps_mean_and_range() -> None:
    image = torch.tensor([0.0, 2.0, 4.0, 10.0]).reshape(1, 2, 2)
    lower = change_intensities(image, IntensityDraw(contrast=0.5))
    assert lower.flatten().tolist() == [2.0, 3.0, 4.0, 7.0]
    higher = change_intensities(image, IntensityDraw(contrast=1.5))
    assert higher.flatten().tolist() == [0.0, 1.0, 4.0, 10.0]  # -2 and 13 are beyond the range


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("exponent", [0.6, 1.5])
def test_gamma_is_monais_and_keeps_mean_and_deviation(exponent: float, inverted: bool) -> None:
    image = _image((16, 14, 12))
    changed = change_intensities(image, IntensityDraw(gamma=GammaDraw(exponent, inverted)))
    monai = AdjustContrast(gamma=exponent, invert_image=inverted, retain_stats=True)
    torch.testing.assert_close(changed, torch.as_tensor(monai(image)), atol=1e-3, rtol=0)
    assert float(changed.mean()) == pytest.approx(float(image.mean()), abs=1e-5)
    assert float(changed.std()) == pytest.approx(float(image.std()), rel=1e-4)
    assert torch.equal(changed.flatten().argsort()[:100], image.flatten().argsort()[:100])


def test_what_is_drawn_keeps_to_its_bounds(make_augmenter: Callable[..., Augmenter]) -> None:
    augmenter = make_augmenter(
        noise_probability=1.0,
        brightness_probability=1.0,
        contrast_probability=1.0,
        gamma_probability=1.0,
        blur_probability=1.0,
        gamma_range=(0.5, 2.0),
    )
    drawn = [augmenter.draw(np.random.default_rng(seed)).channels[0] for seed in range(300)]
    bounds = {
        "noise": ([d.noise.std for d in drawn if d.noise], 0.0, 0.15),
        "brightness": ([d.brightness for d in drawn], 0.75, 1.25),
        "contrast": ([d.contrast for d in drawn], 0.75, 1.25),
        "gamma": ([d.gamma.exponent for d in drawn if d.gamma], 0.5, 2.0),
        "blur": ([d.blur_voxels[0] for d in drawn if d.blur_voxels], 0.5, 1.0),
    }
    for values, low, high in bounds.values():
        spread = (high - low) / 20
        assert len(values) == 300
        assert low <= min(values) < low + spread
        assert high - spread < max(values) <= high
    gammas = [d.gamma for d in drawn if d.gamma]
    assert np.mean([gamma.exponent < 1 for gamma in gammas]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([gamma.inverted for gamma in gammas]) == pytest.approx(0.25, abs=0.08)
