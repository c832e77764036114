"""A training run from a file: `python -m rlbook.llm.train CONFIG.json [field=value ...] [--resume]`.

CONFIG.json holds fields of `TrainConfig`; the config.json that every run writes is one. The fields left out
keep their defaults. `field=value` changes one: the value is JSON, or else text (lr=1e-5 levels=[2,3]
model=weak). The folder out_dir receives the logs, the checkpoints and, at the end, the trained model.
"""

import argparse
import json
from dataclasses import fields
from pathlib import Path

from rlbook.llm.trainer import NonFiniteLoss, TrainConfig, Trainer

FIELDS = [field.name for field in fields(TrainConfig)]


def settings(path, changes=()):
    """The TrainConfig of a JSON file, changed by strings such as "lr=1e-5"."""
    try:
        chosen = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"CONFIG.json: {path} cannot be read as JSON ({error})") from error
    if not isinstance(chosen, dict):
        raise ValueError(f"CONFIG.json: expected {{field: value, ...}}, got {type(chosen).__name__}")
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"expected field=value, got {change!r}")
        chosen[name] = _value(text)
    unknown = [name for name in chosen if name not in FIELDS]
    if unknown:
        raise ValueError(f"expected fields among {', '.join(FIELDS)}; got {', '.join(unknown)}")
    if not chosen.get("out_dir"):
        raise ValueError("out_dir: expected a folder for logs, checkpoints and the model, got none")
    return TrainConfig(**chosen)


def _value(text):
    """The JSON that the text is, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(argv=None):
    """Train, print held-out pass@1, save the model; returns the history."""
    parser = argparse.ArgumentParser(
        prog="python -m rlbook.llm.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG.json")
    parser.add_argument("changes", metavar="field=value", nargs="*", default=[])
    parser.add_argument("--resume", action="store_true", help="go on from out_dir's checkpoint")
    args = parser.parse_intermixed_args(argv)
    try:
        config = settings(args.config, args.changes)
        trainer = Trainer(config)
        if trainer.device == "cpu" and config.device == "auto":
            print("no CUDA device found: training on the CPU")
        history = trainer.run(resume=args.resume)
    except (ValueError, NonFiniteLoss, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    trainer.save(Path(config.out_dir) / "model")
    print(f"step {trainer.step}: pass@1 {history['pass_at_1'][-1]:.3f} on held-out problems")
    print(f"model: {Path(config.out_dir) / 'model'}")
    return history


if __name__ == "__main__":
    main()
