"""Replicate a file to another file, in one process: write, cut, wait, and read the secondary's view.

Run it as ``python examples/local_replication.py [FOLDER]``; run again in the same folder, it goes on where it was.
"""

import sys
import tempfile
from pathlib import Path

from replkit import Replica


def main(folder: Path) -> None:
    """Do it in ``folder``."""
    url = folder.absolute().as_uri()
    with (
        Replica(f"{url}/a.img", f"{url}/a.save", size="64MiB") as primary,
        Replica(f"{url}/b.img", f"{url}/b.save", size="64MiB") as secondary,
    ):
        primary.volume.write(7, b"written before there was a copy".ljust(4096))
        primary.replicate_to(secondary)
        primary.volume.write(1000, b"written while it was made".ljust(4096))
        primary.wait(primary.cut())
        block = bytearray(4096)
        secondary.view().read_into(1000, block)
        print(f"the secondary stands at set {secondary.status()['position']} and reads: {block.decode().strip()}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
