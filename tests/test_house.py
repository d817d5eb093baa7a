"""The house rules that a program can check: format, lint, types, the direction of imports, what is imported at all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKS = [
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["importlinter.cli", "lint"],
    pytest.param(["basedpyright", "--pythonpath", sys.executable], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: " ".join(check[:2]))
def test_the_tree_keeps(check: list[str]) -> None:
    if check[0] == "importlinter.cli":
        command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    else:
        command = [sys.executable, "-m", *check]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def modules_after(code: str) -> set[str]:
    """The top-level packages a fresh interpreter holds after running ``code``."""
    ask = f"{code}\nimport sys, json\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    outcome = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(outcome.stdout.splitlines()[-1]))


def test_importing_fedsim_stays_light() -> None:
    assert not {"torch", "coremltools", "ray", "matplotlib", "pandas", "scipy", "dp_accounting"} & modules_after(
        "import fedsim, fedsim.cli"
    )


def test_a_run_never_imports_coremltools_or_ray(tmp_path: Path) -> None:
    code = (
        "from tests.small import small_config, small_dataset; from fedsim import run; from pathlib import Path;"
        f"run(small_config(Path({str(tmp_path / 'run')!r})), dataset=small_dataset())"
    )
    assert not {"coremltools", "ray", "tensorflow", "pandas"} & modules_after(code)


def test_the_exported_names_are_these() -> None:
    import fedsim

    assert sorted(fedsim.__all__) == ["ConfigError", "RunConfig", "RunError", "RunRecord", "resume", "run"]
    assert all(hasattr(fedsim, name) for name in fedsim.__all__)
