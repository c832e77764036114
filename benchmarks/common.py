"""What the benchmarks share."""

import platform
import subprocess
from importlib import metadata

import torch


def machine(*packages):
    """What the numbers were measured on."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "commit": commit or "unknown",
    }
