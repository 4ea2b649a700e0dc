"""The long fuzzing: ``python -m tests.fuzz --inputs 3000000 --seed 1``; prints what each decoder made of it."""

from __future__ import annotations

import argparse
import sys

from .mutation import fuzz
from .targets import all_targets


def main() -> int:
    """Share the inputs out over the decoders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    targets = all_targets()
    each = -(-options.inputs // len(targets))
    total = 0
    for target in targets:
        result = fuzz(target, options.seed, each)
        total += result.inputs
        refused = ", ".join(f"{count} {name}" for name, count in result.refused.most_common())
        print(f"{result.name:24} {result.inputs:8} inputs  {result.seconds:6.1f} s  "
              f"{result.accepted} accepted, {refused}")  # fmt: skip
    print(f"{total} inputs, seed {options.seed}: only typed errors came out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
