"""Real file systems in image files, made and changed without root by the programs of e2fsprogs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sysconfig
from pathlib import Path

from replkit.errors import InvalidArgumentError, NotFoundError, VolumeFailedError

_EXT_MAGIC_OFFSET, _EXT_MAGIC = 0x438, b"\x53\xef"
FILES_A_ROUND = 24
MAX_FILE_BYTES = 256 << 10


def find_tool(name: str) -> str:
    """Where a program of e2fsprogs is; often outside an ordinary user's path."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise NotFoundError(f"the demo needs the program {name}", hint="install the package e2fsprogs")
    return found


def run_tool(command: list[str], *, allowed: tuple[int, ...] = (0,)) -> str:
    """Run a program and return what it said; ``VolumeFailedError`` with its words when it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if done.returncode not in allowed:
        said = (done.stderr or done.stdout).strip()[-800:]
        raise VolumeFailedError(f"{Path(command[0]).name} failed with {done.returncode}: {said}")
    return done.stdout


def make_image(path: Path, size_bytes: int, work: Path) -> list[Path]:
    """A sparse ext4 image filled with the Python standard library; returns the files that are in it."""
    tree = work / "tree"
    library = Path(sysconfig.get_paths()["stdlib"])
    ignored = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages", "config-*")
    shutil.copytree(library, tree / "python", ignore=ignored, symlinks=True, ignore_dangling_symlinks=True)
    files = sorted(file for file in tree.rglob("*") if file.is_file() and not file.is_symlink())
    needed = sum(file.stat().st_size + 4096 for file in files)
    if size_bytes < needed * 3 // 2 + (64 << 20):
        raise InvalidArgumentError(f"an image of {size_bytes} bytes is too small for the demo's files", hint="try 1GiB")
    with path.open("wb") as image:
        image.truncate(size_bytes)
    run_tool([find_tool("mkfs.ext4"), "-q", "-F", "-b", "4096", "-L", "replkit-demo", "-d", str(tree), str(path)])
    return files


def copy_sparse(source: Path, target: Path) -> None:
    """Copy an image with its holes."""
    run_tool(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)])


def is_ext(path: Path) -> bool:
    """Whether the image holds an ext2, ext3 or ext4 file system."""
    with path.open("rb") as image:
        image.seek(_EXT_MAGIC_OFFSET)
        return image.read(2) == _EXT_MAGIC


def change_files(image: Path, number: int, files: list[Path], work: Path, chance: random.Random) -> None:
    """Round ``number`` of changes: a folder with copies of real files, and the folder of three rounds ago deleted."""
    commands = [f"mkdir /round-{number}"]
    small = [file for file in files if file.stat().st_size <= MAX_FILE_BYTES]
    for index, file in enumerate(chance.sample(small, min(FILES_A_ROUND, len(small)))):
        commands.append(f'write "{file}" /round-{number}/{index:02d}-{file.name}')
    log = work / f"round-{number}.txt"
    log.write_text(f"round {number}\n" + "\n".join(commands))
    commands += [f'write "{log}" /round-{number}/README', f"symlink /round-{number}/link README"]
    if number > 3:
        commands += _removal(image, number - 3)
    script = work / "debugfs.txt"
    script.write_text("\n".join(commands) + "\n")
    run_tool([find_tool("debugfs"), "-w", "-f", str(script), str(image)])


def _removal(image: Path, number: int) -> list[str]:
    listing = run_tool([find_tool("debugfs"), "-R", f"ls -p /round-{number}", str(image)])
    names = [line.split("/")[5] for line in listing.splitlines() if line.count("/") >= 6]
    removed = [f"rm /round-{number}/{name}" for name in names if name not in {".", ".."}]
    return [*removed, f"rmdir /round-{number}"]


def check_file_system(image: Path) -> str:
    """What ``e2fsck -fn`` says of a clean file system; ``VolumeFailedError`` when it finds a fault."""
    try:
        said = run_tool([find_tool("e2fsck"), "-fn", str(image)])
    except VolumeFailedError as error:
        raise VolumeFailedError(f"{image}: the file system is damaged: {error}") from error
    return said.strip().splitlines()[-1]
