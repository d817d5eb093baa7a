"""The seed LeNet in NumPy, forward and backward written out by hand in float64."""

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Weights = Mapping[str, np.ndarray]
"""``conv1.weights`` and so on -> array, in Core ML's layouts."""


def scores(w: Weights, x: np.ndarray, *, channel_last: bool = False) -> np.ndarray:
    """Logits ``[B, 10]`` of images ``[B, 1, 28, 28]``."""
    return _forward(w, x, channel_last)["scores"]


def loss_and_gradient(
    w: Weights, x: np.ndarray, y: np.ndarray, *, channel_last: bool = False
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean cross entropy over the batch and its gradient by every weight."""
    kept = _forward(w, x, channel_last)
    shifted = kept["scores"] - kept["scores"].max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    loss = -log_probabilities[rows, y].mean()

    d_scores = np.exp(log_probabilities)
    d_scores[rows, y] -= 1
    d_scores /= len(y)
    g = {"hidden2.weights": d_scores.T @ kept["relu3"], "hidden2.bias": d_scores.sum(axis=0)}
    d_hidden = (d_scores @ w["hidden2.weights"]) * (kept["hidden1"] > 0)
    g |= {"hidden1.weights": d_hidden.T @ kept["flat"], "hidden1.bias": d_hidden.sum(axis=0)}
    d_flat = d_hidden @ w["hidden1.weights"]
    d_pool2 = d_flat.reshape(-1, 6, 6, 32).transpose(0, 3, 1, 2) if channel_last else d_flat.reshape(-1, 32, 6, 6)
    d_conv2 = _unpool(d_pool2, kept["relu2"]) * (kept["conv2"] > 0)
    g |= _convolution_gradient("conv2", kept["pool1"], d_conv2, 2)
    d_pool1 = np.zeros_like(kept["pool1"])
    for i in range(2):
        for j in range(2):
            part = np.einsum("bohw,oc->bchw", d_conv2, w["conv2.weights"][:, :, i, j])
            d_pool1[:, :, i : i + part.shape[2], j : j + part.shape[3]] += part
    d_conv1 = _unpool(d_pool1, kept["relu1"]) * (kept["conv1"] > 0)
    return loss, g | _convolution_gradient("conv1", x, d_conv1, 3)


def _forward(w: Weights, x: np.ndarray, channel_last: bool) -> dict[str, np.ndarray]:
    kept = {"conv1": _convolve(x, w["conv1.weights"], w["conv1.bias"])}
    kept["relu1"] = np.maximum(kept["conv1"], 0)
    kept["pool1"] = _pool(kept["relu1"])
    kept["conv2"] = _convolve(kept["pool1"], w["conv2.weights"], w["conv2.bias"])
    kept["relu2"] = np.maximum(kept["conv2"], 0)
    pooled = _pool(kept["relu2"])
    kept["flat"] = (pooled.transpose(0, 2, 3, 1) if channel_last else pooled).reshape(len(x), -1)
    kept["hidden1"] = kept["flat"] @ w["hidden1.weights"].T + w["hidden1.bias"]
    kept["relu3"] = np.maximum(kept["hidden1"], 0)
    kept["scores"] = kept["relu3"] @ w["hidden2.weights"].T + w["hidden2.bias"]
    return kept


def _convolve(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    windows = sliding_window_view(x, weights.shape[2:], axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, weights, optimize=True) + bias[:, None, None]


def _convolution_gradient(name: str, x: np.ndarray, d: np.ndarray, size: int) -> dict[str, np.ndarray]:
    windows = sliding_window_view(x, (size, size), axis=(2, 3))
    weights = np.einsum("bchwij,bohw->ocij", windows, d, optimize=True)
    return {f"{name}.weights": weights, f"{name}.bias": d.sum(axis=(0, 2, 3))}


def _pool(x: np.ndarray) -> np.ndarray:
    """The largest of each whole 2 x 2 window."""
    return _windows(x).max(axis=-1)


def _unpool(d: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``d`` given to the first largest number of each window of ``x``; numbers outside whole windows get nothing."""
    windows = _windows(x)
    first = np.arange(4) == windows.argmax(axis=-1)[..., None]
    spread = (d[..., None] * first).reshape(*d.shape, 2, 2).swapaxes(3, 4)
    whole = np.zeros_like(x)
    whole[:, :, : 2 * d.shape[2], : 2 * d.shape[3]] = spread.reshape(*d.shape[:2], 2 * d.shape[2], 2 * d.shape[3])
    return whole


def _windows(x: np.ndarray) -> np.ndarray:
    batch, channels, height, width = x.shape
    whole = x[:, :, : height // 2 * 2, : width // 2 * 2]
    cells = whole.reshape(batch, channels, height // 2, 2, width // 2, 2).swapaxes(3, 4)
    return cells.reshape(batch, channels, height // 2, width // 2, 4)
