"""Windows sliding over a map: how much Core ML pads each side, and how many windows fit."""

import math

from fedsim.coreml.layers import Convolution, IncludeLastPixel, Pair, Pooling, Same, TransposedConvolution, Valid


def padding_pixels(layer: Convolution | Pooling, height: int, width: int) -> Valid:
    """The padding of a map of ``height`` x ``width`` in pixels (ValidPadding, SamePadding, ValidCompletePadding).

    With ``IncludeLastPixel`` the far sides get as much more as the last window needs.
    """
    match layer.padding:
        case Valid() as fixed:
            return fixed
        case Same(asymmetry=asymmetry):
            totals = [
                max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
                for size, stride, kernel in zip((height, width), layer.stride, _reach(layer), strict=True)
            ]
            return _shared_out(totals[0], totals[1], end_heavy=asymmetry == "bottom_right_heavy")
        case IncludeLastPixel(height=top, width=left):
            rows, columns = window_counts(layer, height, width)
            bottom = max((rows - 1) * layer.stride[0] + layer.kernel[0] - height - top, 0)
            right = max((columns - 1) * layer.stride[1] + layer.kernel[1] - width - left, 0)
            return Valid(top=top, bottom=bottom, left=left, right=right)


def window_counts(layer: Convolution | Pooling, height: int, width: int) -> Pair:
    """Height and width of what a convolution or pooling makes of a map; below one if the kernel does not fit."""
    if isinstance(layer.padding, IncludeLastPixel):
        return (
            _count_to_last_pixel(height, layer.padding.height, layer.kernel[0], layer.stride[0], layer.padding),
            _count_to_last_pixel(width, layer.padding.width, layer.kernel[1], layer.stride[1], layer.padding),
        )
    padding, (reach_down, reach_right) = padding_pixels(layer, height, width), _reach(layer)
    return (
        (height + padding.top + padding.bottom - reach_down) // layer.stride[0] + 1,
        (width + padding.left + padding.right - reach_right) // layer.stride[1] + 1,
    )


def cut_pixels(layer: TransposedConvolution) -> Valid:
    """What a transposed convolution cuts off its full output: under ``Same``, what its forward twin would pad."""
    if isinstance(layer.padding, Valid):
        return layer.padding
    vertical, horizontal = layer.kernel[0] - layer.stride[0], layer.kernel[1] - layer.stride[1]
    return _shared_out(vertical, horizontal, end_heavy=layer.padding.asymmetry == "bottom_right_heavy")


def transposed_size(layer: TransposedConvolution, height: int, width: int) -> Pair:
    """Height and width of what a transposed convolution makes of a map."""
    cut = cut_pixels(layer)
    return (
        (height - 1) * layer.stride[0] + layer.kernel[0] - cut.top - cut.bottom,
        (width - 1) * layer.stride[1] + layer.kernel[1] - cut.left - cut.right,
    )


def _reach(layer: Convolution | Pooling) -> Pair:
    """The kernel's extent on the map, dilation included."""
    if isinstance(layer, Pooling):
        return layer.kernel
    return (layer.kernel[0] - 1) * layer.dilation[0] + 1, (layer.kernel[1] - 1) * layer.dilation[1] + 1


def _shared_out(vertical: int, horizontal: int, *, end_heavy: bool) -> Valid:
    """Both totals halved, the odd pixel at the end or at the start."""
    top = vertical // 2 if end_heavy else vertical - vertical // 2
    left = horizontal // 2 if end_heavy else horizontal - horizontal // 2
    return Valid(top=top, bottom=vertical - top, left=left, right=horizontal - left)


def _count_to_last_pixel(size: int, edge: int, kernel: int, stride: int, padding: IncludeLastPixel) -> int:
    """PoolingLayerParams: rounded up, but where there is padding no window starts in the far edge."""
    count = -((size + 2 * edge - kernel) // -stride) + 1
    padded = padding.height > 0 or padding.width > 0
    return count - 1 if padded and (count - 1) * stride >= size + edge else count
