"""Own arrays: what is accepted, what becomes of them, and every refusal with its words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsim.data.dataset import Examples, batch_inputs, from_arrays, select

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([1, 0])


def made(**changes):
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS} | changes
    return from_arrays("own", *arrays.values())


def holding(value):
    inputs = np.zeros((2, 3), np.float32)
    inputs[1, 2] = value
    return inputs


def test_grey_images_gain_a_channel_and_everything_else_keeps_its_shape():
    dataset = made()
    assert (dataset.name, dataset.classes) == ("own", 2)
    assert dataset.train.inputs.shape == (2, 1, 3, 4)
    np.testing.assert_array_equal(dataset.train.inputs[:, 0], IMAGES)
    for shape in [(2, 5), (2, 3, 8, 8), (2, 1, 2, 3, 4)]:
        inputs = np.ones(shape, np.float32)
        assert made(x_train=inputs, x_test=inputs).train.inputs.shape == shape


def test_inputs_are_read_only_views_and_labels_are_copies():
    labels = LABELS.copy()
    dataset = made(y_train=labels)
    assert not dataset.train.inputs.flags.writeable
    assert np.shares_memory(dataset.train.inputs, IMAGES)
    assert IMAGES.flags.writeable
    labels[:] = 7
    np.testing.assert_array_equal(dataset.train.labels, [1, 0])


@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", "<u4", ">i8"])
def test_labels_of_any_integer_type_become_int64(dtype):
    assert made(y_train=LABELS.astype(dtype)).train.labels.dtype == np.int64


def test_big_endian_floats_become_native_with_equal_values():
    inputs = np.linspace(-2, 2, 6).reshape(2, 3).astype(">f4")
    read = made(x_train=inputs, x_test=inputs).train.inputs
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": IMAGES.astype(np.float64)},
            "x_train is float64; allowed are uint8 (0 to 255, divided by 255) and float32 (used as it is)",
        ),
        (
            {"x_test": np.array([["a"], ["b"]])},
            "x_test is <U1; allowed are uint8 (0 to 255, divided by 255) and float32 (used as it is)",
        ),
        ({"x_train": IMAGES[0, 0]}, "x_train has shape [4]; allowed is [examples, ...], an array an example"),
        ({"x_train": np.uint8(3)}, "x_train has shape []; allowed is [examples, ...], an array an example"),
        ({"x_train": IMAGES[:0]}, "x_train has shape [0, 3, 4]: it must not be empty"),
        ({"x_test": IMAGES[:, :0]}, "x_test has shape [2, 0, 4]: it must not be empty"),
        ({"x_train": holding(np.nan)}, "x_train holds NaN or infinity, first in example 1: every value must be finite"),
        ({"x_train": holding(np.inf)}, "x_train holds NaN or infinity, first in example 1: every value must be finite"),
        ({"y_train": LABELS.astype(np.float32)}, "y_train is float32; allowed are integers"),
        ({"y_train": LABELS.astype(np.bool_)}, "y_train is bool; allowed are integers"),
        ({"y_train": LABELS[:, None]}, "y_train has shape [2, 1]; allowed is [examples], a label an example"),
        ({"y_test": LABELS[:0]}, "y_test has shape [0]: it must not be empty"),
        ({"y_train": LABELS[:1]}, "x_train has 2 examples, y_train has 1 labels: they must be as many"),
        ({"y_train": LABELS - 1}, "y_train holds label -1; allowed are 0 to 65,535"),
        ({"y_test": LABELS + 65_535}, "y_test holds label 65536; allowed are 0 to 65,535"),
        ({"y_train": np.array([0, 2**64 - 1], np.uint64)}, f"y_train holds label {2**64 - 1}; allowed are 0 to 65,535"),
        ({"y_test": LABELS + 1}, "y_test holds label 2; the largest in y_train is 1"),
        (
            {"x_test": IMAGES.reshape(2, 4, 3)},
            "x_train holds uint8 [1, 3, 4], x_test holds uint8 [1, 4, 3]: they must be alike",
        ),
        (
            {"x_test": IMAGES.astype(np.float32)},
            "x_train holds uint8 [1, 3, 4], x_test holds float32 [1, 3, 4]: they must be alike",
        ),
    ],
)
def test_bad_arrays_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        made(**changes)
    assert str(refusal.value) == message


def test_every_byte_is_scaled_to_the_float_nearest_to_its_255th_part():
    scaled = batch_inputs(np.arange(256, dtype=np.uint8))
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, np.array([value / 255 for value in range(256)], np.float32))


@settings(deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(max_side=4), elements=st.floats(width=32, allow_nan=False)))
def test_floats_stay_as_they_are_in_a_new_writable_array(inputs):
    inputs.flags.writeable = False
    batch = batch_inputs(inputs)
    np.testing.assert_array_equal(batch, inputs)
    assert batch.flags.writeable
    assert not np.shares_memory(batch, inputs)


def test_select_keeps_inputs_and_labels_together():
    examples = Examples(inputs=IMAGES, labels=np.array([4, 5]))
    picked = select(examples, np.array([1, 0, 1]))
    np.testing.assert_array_equal(picked.inputs, IMAGES[[1, 0, 1]])
    assert picked.labels.tolist() == [5, 4, 5]
    assert np.shares_memory(select(examples, slice(1)).inputs, IMAGES)
