"""One file that a run can go on from: safetensors for tensors, JSON in its header for the rest.

The file is written beside its place, synced to the disk and renamed: at every moment the old one or
the new one is whole.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes


def write(path, data):
    """Put bytes at `path`, all or nothing; OSError says what to do and what is still there."""
    path, beside = Path(path), Path(f"{path}.part")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        kept = "the one before it is whole" if path.exists() else "nothing was written"
        raise OSError(f"{path} could not be written ({error}); {kept}. Free some space and resume") from error


def save(path, tensors, state):
    """Write `tensors` {name: tensor} and `state` (JSON) to one file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"state": json.dumps(state), "sum": _sum(tensors)}
    write(path, to_bytes(tensors, header))


def load(path):
    """(tensors, state) as saved. Raises ValueError if the file is cut, changed, or something else."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole checkpoint ({error}); delete it to start anew") from error
    if "state" not in header or header.get("sum") != _sum(tensors):
        raise ValueError(f"{path}: not a checkpoint of this package, or its bytes changed; delete it")
    return tensors, json.loads(header["state"])


def _sum(tensors):
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def fingerprint(module):
    """A short text that differs for different weights."""
    return _sum({name: value.detach().cpu().contiguous() for name, value in _weights(module).items()})


def pack(modules, optimisers, generators):
    """{name: tensor} of the states of named modules, AdamW optimisers and torch generators."""
    tensors = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in _weights(module).items()}
    for name, optimiser in optimisers.items():
        for i, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}/{i}/{key}": value for key, value in moments.items()}
    return tensors | {f"{name}/state": generator.get_state() for name, generator in generators.items()}


def unpack(tensors, modules, optimisers, generators):
    """Put the states that `pack` took back; names of the three dicts as in `pack`."""
    for name, module in modules.items():
        for key, value in _weights(module).items():
            found = tensors.get(f"{name}/{key}")
            if found is None or found.shape != value.shape:
                shape = None if found is None else tuple(found.shape)
                raise ValueError(
                    f"the checkpoint is of another model: {key} is {shape}, not {tuple(value.shape)}"
                )
            value.data.copy_(found)
    for name, optimiser in optimisers.items():
        whole = optimiser.state_dict()
        whole["state"] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}/"):
                _, i, moment = key.split("/")
                whole["state"].setdefault(int(i), {})[moment] = value
        optimiser.load_state_dict(whole)
    for name, generator in generators.items():
        generator.set_state(tensors[f"{name}/state"])


def _weights(module):
    """Parameters and buffers by name, tied ones once."""
    return dict(module.named_parameters()) | dict(module.named_buffers())
