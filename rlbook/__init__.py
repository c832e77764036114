"""rlbook: reference implementations for reinforcement learning, from bandits to language models.

`import rlbook` is light. The helpers below load their module on first use; everything else is
imported by its own name, for example `from rlbook.mdp import TabularMDP`.
"""

from importlib import import_module

__version__ = "0.1.0"

_HELPERS = {
    "setup": "rlbook.notebook",
    "show": "rlbook.notebook",
    "verify": "rlbook.checks",
    "claim": "rlbook.checks",
    "check": "rlbook.checks",
    "use": "rlbook.checks",
    "predict": "rlbook.checks",
    "reveal": "rlbook.checks",
    "report": "rlbook.checks",
}
__all__ = sorted(_HELPERS)


def __getattr__(name):
    if name in _HELPERS:
        return getattr(import_module(_HELPERS[name]), name)
    raise AttributeError(f"module 'rlbook' has no attribute {name!r}; helpers: {', '.join(__all__)}")


def __dir__():
    return sorted([*globals(), *__all__])
