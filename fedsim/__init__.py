"""Federated on-device training, simulated and real, in one system."""

from importlib.metadata import version

from fedsim.config import ConfigError, RunConfig
from fedsim.recording import RunError
from fedsim.run import RunRecord, resume, run

__version__ = version("fedsim")

__all__ = ["ConfigError", "RunConfig", "RunError", "RunRecord", "resume", "run"]
