"""What the ``fedsim model`` verbs do: write, describe and check updatable Core ML files, without a Mac."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from fedsim.config import ConfigError, RunConfig
from fedsim.coreml.contract import architecture_id, read_contract, weights_id
from fedsim.coreml.lint import device_trainable, lint
from fedsim.coreml.shapes import blob_shapes
from fedsim.coreml.weights import read_weights, write_weights
from fedsim.federation import first_weights, read_model
from fedsim.files import write_atomically

_NOT_IN_FILES = ("epsilon_form", "proximal_mu", "weight_decay")
_OTHER_OPTIMIZERS = {"sgd": ("beta1", "beta2", "epsilon"), "adam": ("momentum",)}


def build(path: Path, config: RunConfig) -> str:
    """Write the contract of ``config`` with the weights that its round 1 starts from; says what was written."""
    contract = read_model(config)
    weights = first_weights(config, contract)
    data = write_weights(contract.file, contract.slots, weights)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    return f"wrote {path}: {len(data):,} bytes, {len(weights):,} weights, architecture {architecture_id(contract)[:16]}"


def describe(path: Path) -> str:
    """What a file computes, what may be trained in it and how, in lines."""
    data = _read(path)
    with _refusals_of(path):
        contract = read_contract(data)
    shapes = blob_shapes(contract.graph, contract.input_name, contract.input_shape)
    lines = [f"input {contract.input_name} {list(contract.input_shape)}, label {contract.target_name}"]
    for layer in contract.graph:
        kind = type(layer).__name__
        sizes = [slot.shape for slot in contract.slots if slot.layer == layer.name]
        trained = f"  trains {' + '.join(str(list(size)) for size in sizes)}" if sizes else ""
        lines.append(f"  {layer.name:<12} {kind:<18} -> {list(shapes[layer.outputs[0]])}{trained}")
    lines.append(f"loss {contract.loss} on {contract.output_name}, {contract.parameters:,} weights to train")
    for key, value in asdict(contract.training).items():
        if key not in _NOT_IN_FILES and key not in _OTHER_OPTIMIZERS[contract.training.optimizer]:
            allowed = contract.allowed.get(key)
            lines.append(f"  {key} = {value}" + (f"  (a phone accepts {allowed})" if allowed else ""))
    lines.append(f"architecture {architecture_id(contract)}")
    lines.append(f"weights      {weights_id(read_weights(contract.file, contract.slots))}")
    return "\n".join(lines)


def check(path: Path) -> tuple[str, bool]:
    """The linter's findings on a file, and whether a phone can train it."""
    data = _read(path)
    with _refusals_of(path):
        findings, extent = lint(data), device_trainable(data)
    errors = [finding for finding in findings if finding.severity == "error"]
    lines = [
        f"{finding.severity}: {finding.layer or 'model'}: {finding.message}; {finding.remedy}" for finding in findings
    ]
    verdict = f"a phone cannot train this file, {len(errors)} errors" if errors else "a phone can train this file"
    return "\n".join([*lines, f"{path}: {verdict} (trainable layers: {extent})"]), not errors


@contextmanager
def _refusals_of(path: Path) -> Generator[None]:
    """What a reader refuses in words is the file's fault, and said with its name."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
