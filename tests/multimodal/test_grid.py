"""Pictures as a grid of cells: order, colours, shapes and what is refused."""

import pytest
import torch

from multimodal.encoders.efficientnet_lite import EfficientNetLite0
from multimodal.encoders.grid import EfficientNetGrid, PixelGrid, cells, colour_histogram

Colour = tuple[int, int, int]


def quadrants(*colours: Colour, side: int = 32) -> torch.Tensor:
    """One picture (1, 3, side, side) of four flat quarters, row by row."""
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    half = side // 2
    for place, colour in enumerate(colours):
        row, column = divmod(place, 2)
        image[0, :, row * half : (row + 1) * half, column * half : (column + 1) * half] = torch.tensor(
            colour, dtype=torch.uint8
        )[:, None, None]
    return image


def test_cells_are_ordered_row_by_row_and_keep_their_inner_order() -> None:
    image = torch.arange(16).float().view(1, 1, 4, 4)
    assert cells(image, 2).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]


def test_the_histogram_finds_flat_colours_exactly() -> None:
    # With 4 levels, 0 and 255 are levels, and 170 is the third of them: each quarter is one bin.
    image = quadrants((0, 0, 0), (255, 0, 0), (0, 255, 170), (255, 255, 255)).float() / 255
    histogram = colour_histogram(image, 2, 4)
    bins = [0, 3 * 16, 3 * 4 + 2, 63]
    for cell, index in enumerate(bins):
        assert histogram[0, cell, index].item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(histogram.sum(-1), torch.ones(1, 4))


def test_histogram_shares_sum_to_1_and_are_split_between_neighbours() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)  # half-way between the second and third of four levels
    histogram = colour_histogram(image, 1, 4).view(4, 4, 4)
    torch.testing.assert_close(histogram[1:3, 1:3, 1:3], torch.full((2, 2, 2), 1 / 8))
    noise = torch.rand(3, 3, 12, 12)
    torch.testing.assert_close(colour_histogram(noise, 3, 4).sum(-1), torch.ones(3, 9))


def test_a_change_in_one_quarter_changes_that_cell_only() -> None:
    encoder = PixelGrid(32, 2)
    before = encoder(quadrants((9, 9, 9), (90, 9, 9), (9, 90, 9), (9, 9, 90)))
    after = encoder(quadrants((9, 9, 9), (90, 9, 9), (200, 90, 9), (9, 9, 90)))
    assert before.shape == (1, 4, encoder.num_features)
    changed = (before != after).any(-1)[0]
    assert changed.tolist() == [False, False, True, False]


def test_the_patch_is_the_picture_in_small() -> None:
    patch = PixelGrid(32, 2)(quadrants((255, 0, 0), (0, 0, 0), (0, 0, 0), (255, 255, 255)))[0, :, : 3 * 64]
    red = patch[0].view(3, 8, 8)
    assert red[0].eq(1).all()
    assert red[1:].eq(-1).all()
    assert patch[3].eq(1).all()


@pytest.mark.parametrize(("side", "grid"), [(96, 3), (64, 2), (96, 1)])
def test_efficientnet_cells_have_the_stated_size_and_see_pixels_and_objects(side: int, grid: int) -> None:
    torch.manual_seed(0)
    encoder = EfficientNetGrid(EfficientNetLite0().eval(), side, grid)
    pictures = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    features = encoder(pictures)
    assert features.shape == (2, encoder.num_positions, encoder.num_features)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features[..., -encoder.pixels.num_features :], PixelGrid(side, grid)(pictures))
    alone = torch.cat([encoder(picture[None]) for picture in pictures])
    torch.testing.assert_close(features, alone, atol=1e-4, rtol=1e-4)  # a picture's features are its own


def test_names_tell_features_apart() -> None:
    network = EfficientNetLite0()
    names = {
        PixelGrid(96, 3).name,
        PixelGrid(96, 2).name,
        PixelGrid(48, 3).name,
        EfficientNetGrid(network, 96, 3).name,
        EfficientNetGrid(network, 48, 3).name,
        EfficientNetGrid(EfficientNetLite0(), 96, 3).name,
    }
    assert len(names) == 6
    assert all(name.isascii() and "/" not in name for name in names)


def test_other_pictures_are_refused_with_the_remedy() -> None:
    encoder = PixelGrid(32, 2)
    for wrong in (torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"uint8 of shape \(B, 3, 32, 32\).*side=32"):
            encoder(wrong)
    with pytest.raises(ValueError, match="multiple of grid"):
        PixelGrid(32, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_grids_on_cuda_equal_the_cpu() -> None:
    torch.manual_seed(0)
    encoder = EfficientNetGrid(EfficientNetLite0().eval(), 64, 2)
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = encoder(pictures)
        found = encoder.cuda()(pictures.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)  # TF32 convolutions
