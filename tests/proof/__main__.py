"""All proof in one command: ``python -m tests.proof --floors`` in CI, ``--minutes 90`` for the long run.

Exit status 1 when something broke, or a part did not come to its floor; each failure is told with what repeats it.
"""

from __future__ import annotations

import argparse
import sys
import time

from replkit.testing.sim.coverage import Coverage
from replkit.testing.sim.faults import STORE_FAULTS
from replkit.testing.sim.runner import ALL_PHASES

from .buckets import BUCKET_FAULTS
from .calls import LINK_FAULTS, POWER
from .parts import KINDS, Part, all_parts
from .sharing import share
from .work import quiet, repeat


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="how long (default 15)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first seed of the simulator (default 0)")
    parser.add_argument("--parts", default=",".join(KINDS), help="only these, with commas (default %(default)s)")
    parser.add_argument("--floors", action="store_true", help="end when each part is at its floor, as in CI")
    parser.add_argument("--repeat", default="", help="tell one story again, as a failure was told")
    given = parser.parse_args(arguments)
    if given.repeat:
        quiet()
        end = repeat(given.repeat)
        print(f"{end.name}: {end.error or 'as it should be'}; {end.crashes} crashes")
        return 1 if end.error else 0
    began_s = time.monotonic()
    parts = all_parts(given.minutes, given.first_seed, given.parts.split(","))
    share(parts, seconds=given.minutes * 60 * 0.97, jobs=given.jobs, on_failure=_tell, only_floors=given.floors)
    for part in parts:
        _print_details(part)
    print(table(parts))
    print(f"{time.monotonic() - began_s:.0f} s over {given.jobs} processes")
    return 0 if all(part.is_met for part in parts) else 1


def _tell(part: Part, failure: tuple[str, str]) -> None:
    text, command = failure
    print(f"FAILED {part.kind}: {text}\n  repeat: {command}", flush=True)


def _print_details(part: Part) -> None:
    if part.kind == "seeds" and part.summary.seeds:
        print(part.summary.text())
    if part.kind in {"calls", "states"} and part.coverage:
        coverage = Coverage()
        coverage.update(part.coverage)
        faults = (POWER, *LINK_FAULTS, *STORE_FAULTS, *BUCKET_FAULTS) if part.kind == "calls" else (POWER,)
        print(f"\n{part.what}, by what the site was doing ('!': never, not all can be)")
        print(coverage.table(faults, ALL_PHASES, frozenset()))
        print(", ".join(f"{name}: {number}" for name, number in part.notes.items()))


def table(parts: list[Part]) -> str:
    """What was counted, and what was to be."""
    lines = [f"{'':44}{'count':>9}{'floor':>9}{'broke':>7}{'seconds':>9}"]
    for part in parts:
        said = "" if part.is_met else "  NOT MET"
        lines.append(
            f"{part.what:44}{part.count:>9}{part.floor:>9}{len(part.failures):>7}{part.seconds:>9.0f}{said}"
        )  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
