"""The grid of rebuilt images: its pixels are the images', its words the notes, and nothing is fetched."""

import base64
import io
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

from fedsim.report.reconstructions import ImageRow, reconstruction_picture

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 5)) / 255
ROWS = (
    ImageRow(name="original", images=IMAGES),
    ImageRow(name="each", images=1 - IMAGES, notes=("54 dB", "8 dB", "x")),
)


def test_every_image_is_drawn_and_carries_its_data() -> None:
    root = ElementTree.fromstring(reconstruction_picture(ROWS, caption="c").svg)
    namespace = "{http://www.w3.org/2000/svg}"
    drawn = [element.attrib["href"] for element in root.iter(f"{namespace}image")]
    assert len(drawn) == 6
    shown = [_pixels(href) for href in drawn]
    for image in np.concatenate([row.images for row in ROWS]):
        assert any(np.array_equal(pixels, np.round(255 * image[0])) for pixels in shown)
    words = "".join(root.itertext())
    assert all(note in words for note in ("original", "each", "54 dB", "8 dB"))


def test_the_same_images_give_the_same_text() -> None:
    assert reconstruction_picture(ROWS, caption="c") == reconstruction_picture(ROWS, caption="c")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((ROWS[0], ImageRow(name="two", images=IMAGES[:2])), r"equally many images.*got \[2, 3\]"),
        ((ImageRow(name="short", images=IMAGES, notes=("a",)),), "a note for each or none"),
        ((ImageRow(name="flat", images=np.zeros((2, 7))),), r"got \[2, 7\]"),
    ],
)
def test_rows_that_make_no_grid_are_refused(rows: tuple[ImageRow, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reconstruction_picture(rows, caption="c")


def _pixels(href: str) -> np.ndarray:
    kind, data = href.split(",", 1)
    assert kind == "data:image/png;base64"
    image = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format="png")
    return np.round(255 * image[..., 0])
