"""What mmmed raises when the user can mend it.

MmmedError              shown at the command line without a traceback, exit code 2
├── ConfigError         a key or value of the run configuration
│   └── WireError       tensors that came over the network
├── DataError           a table, row, image or note
├── ModelError          a model name, weight file or architecture
│   └── WeightsDiffer   what is not trained here is not what the server has
├── RunError            a run folder: in use, incomplete, not resumable
└── DeployError         a federation's or site's keys, certificates, kits, processes

A message names the file, row or key, says what was expected and how to mend it.
"""

from __future__ import annotations


class MmmedError(Exception):
    """An error whose message is enough for the user to mend it."""


class ConfigError(MmmedError):
    """A key or value of the run configuration is wrong."""


class WireError(ConfigError):
    """Tensors that came over the network cannot be used; ``code`` says why in a word that may be told to anyone."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DataError(MmmedError):
    """A table, row, image or note is missing, unreadable or contradicts another."""


class ModelError(MmmedError):
    """A model cannot be built, loaded or trained privately as asked."""


class WeightsDiffer(ModelError):
    """A part of the model that is not trained, and so does not travel, is not the one that the server has."""


class RunError(MmmedError):
    """A run folder is in use, incomplete or not resumable."""


class DeployError(MmmedError):
    """A key, certificate, start-up kit or process of a deployed federation is missing, wrong or not running."""
