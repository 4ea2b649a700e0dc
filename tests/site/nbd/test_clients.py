"""What real NBD clients see of a served volume."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from replkit.errors import OutOfSpaceError
from replkit.site.nbd import Export, NbdServer

pytestmark = pytest.mark.requirement("X1")
MIB = 1 << 20


def run(*command: object, succeeds: bool = True) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.needs_tool("nbdinfo")
def test_nbdinfo_tells_what_an_export_can(world):
    (export,) = json.loads(run("nbdinfo", "--json", world.uri()))["exports"]
    assert export["export-name"] == "disk"
    assert export["description"] == "a test disk"
    assert export["export-size"] == world.volume.size_bytes
    assert export["contexts"] == ["base:allocation"]
    assert (export["block_size_minimum"], export["block_size_preferred"]) == (1, 4096)
    for ability in ("can_flush", "can_fua", "can_trim", "can_zero", "can_df", "can_multi_conn", "can_cache"):
        assert export[ability] is True, ability
    assert export["is_read_only"] is False


@pytest.mark.needs_tool("nbdinfo")
def test_nbdinfo_lists_all_exports(world):
    world.server.add_export("other", Export(volume=world.volume, read_only=True))
    exports = json.loads(run("nbdinfo", "--list", "--json", world.uri("")))["exports"]
    assert {e["export-name"]: e["is_read_only"] for e in exports} == {"disk": False, "other": True}


@pytest.mark.needs_tool("nbdinfo")
def test_nbdinfo_maps_what_is_in_use(world):
    world.volume.used |= {1, 2, 5}
    extents = json.loads(run("nbdinfo", "--map", "--json", world.uri()))
    assert [(e["offset"], e["length"], e["type"]) for e in extents] == [
        (0, 4096, 3),
        (4096, 8192, 0),
        (12288, 8192, 3),
        (20480, 4096, 0),
        (24576, world.volume.size_bytes - 24576, 3),
    ]


@pytest.mark.needs_tool("nbdcopy")
@pytest.mark.parametrize("size_bytes", [8 * MIB, 3 * MIB + 4096 * 3 + 1537])
def test_nbdcopy_brings_an_image_in_and_out_again(make_world, tmp_path: Path, size_bytes):
    world = make_world(size_bytes)
    image = bytearray(random.Random(7).randbytes(size_bytes))
    image[MIB : 2 * MIB] = bytes(MIB)
    (tmp_path / "in").write_bytes(image)
    run("nbdcopy", "--flush", tmp_path / "in", world.uri())
    assert bytes(world.volume.data[:size_bytes]) == image
    assert ("flush",) in world.volume.calls
    run("nbdcopy", world.uri(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image


@pytest.mark.needs_tool("qemu-img")
def test_qemu_img_converts_compares_and_maps(make_world, tmp_path: Path):
    world = make_world(4 * MIB)
    (tmp_path / "in").write_bytes(bytes(MIB) + random.Random(8).randbytes(MIB) + bytes(2 * MIB))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", tmp_path / "in", world.uri())
    assert bytes(world.volume.data) == (tmp_path / "in").read_bytes()
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "in", world.uri())
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", world.uri(), tmp_path / "out.qcow2")
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "in", tmp_path / "out.qcow2")
    mapped = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", world.uri()))
    assert [(e["start"], e["length"], e["data"]) for e in mapped] == [
        (0, MIB, False),
        (MIB, MIB, True),
        (2 * MIB, 2 * MIB, False),
    ]


@pytest.mark.needs_tool("qemu-io")
def test_qemu_io_works_at_any_alignment(make_world):
    world = make_world(MIB + 512)
    commands = [
        "write -P 1 0 1M",
        "write -P 2 511 4099",
        "read -P 1 0 511",
        "read -P 2 511 4099",
        "read -P 1 4610 1000",
        "write -P 3 1048576 512",
        "write -z -u 100 9000",
        "read -P 0 100 9000",
        "read -P 1 9100 100",
        "discard 65536 65536",
        "write -f -P 4 12k 4k",
        "read -P 3 1048576 512",
        "flush",
    ]
    out = run("qemu-io", "-f", "raw", *(word for c in commands for word in ("-c", c)), world.uri())
    assert "failed" not in out, out
    world.volume.fail["write_extents"] = world.volume.fail["write"] = OutOfSpaceError("the disk under it is full")
    assert "No space left on device" in run("qemu-io", "-f", "raw", "-c", "write 0 4k", world.uri(), succeeds=False)


@pytest.mark.needs_tool("qemu-io")
def test_a_read_only_export_is_read_only_to_qemu(world):
    world.server.add_export("ro", Export(volume=world.volume, read_only=True))
    out = run("qemu-io", "-f", "raw", "-c", "write 0 4k", world.uri("ro"), succeeds=False)
    assert "read-only" in out.lower() or "Permission denied" in out or "Operation not permitted" in out, out
    assert "ops" in run("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 4k", world.uri("ro"))


@pytest.mark.needs_tool("fio")
@pytest.mark.parametrize(
    "shape", [("--bs=4k", "--iodepth=16"), ("--bsrange=512-64k", "--bs_unaligned=1", "--iodepth=1")]
)
def test_fio_verifies_what_it_wrote(world, tmp_path: Path, shape):
    run(
        *("fio", "--name=verify", "--ioengine=nbd", f"--uri={world.uri()}", "--rw=randwrite", "--size=2m"),
        *("--verify=crc32c", "--do_verify=1", "--verify_fatal=1", f"--aux-path={tmp_path}", *shape),
    )


@pytest.mark.needs_tool("qemu-io")
def test_both_transports_see_one_disk(world):
    with_tcp = NbdServer({"disk": Export(volume=world.volume)}, "127.0.0.1:0")
    with_tcp.start()
    try:
        run("qemu-io", "-f", "raw", "-c", "write -P 9 12345 70000", world.uri())
        out = run("qemu-io", "-f", "raw", "-c", "read -P 9 12345 70000", f"nbd://{with_tcp.address}/disk")
    finally:
        with_tcp.stop()
    assert "failed" not in out


@pytest.mark.needs_tool("nbdcopy")
def test_a_volume_can_be_copied_while_others_write(world, tmp_path: Path):
    world.volume.data[:] = os.urandom(len(world.volume.data))
    world.volume.used = set(range(world.volume.block_count))
    writer = world.client()
    with subprocess.Popen(["nbdcopy", world.uri(), str(tmp_path / "out")]) as copy:
        for block in range(200):
            assert writer.call(1, block * 4096, payload=b"w" * 4096) == 0
        assert copy.wait(30) == 0
    assert (tmp_path / "out").read_bytes()[200 * 4096 :] == world.volume.data[200 * 4096 :]
