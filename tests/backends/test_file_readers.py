"""What readers of a file save volume see, in this process and in others."""

import subprocess
import sys

import pytest

from replkit.backends.file.layout import SECTOR_BYTES


def damage(path, offset, data=b"\xff"):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def offset_of(save, key):
    return save._of(key).find(key).offset


@pytest.mark.requirement("S2", "T6")
def test_a_reader_in_another_process_follows(directory, opened):
    save = opened()
    save.put("sets/a/0", [b"first"])
    save.sync()
    code = f"""
import sys
from replkit.contracts.registry import default_registry
reader = default_registry().open_save_volume("file://{directory}", producer=False)
for line in sys.stdin:
    print(" ".join(key + "=" + bytes(reader.get(key)).decode() for key in reader.list("sets/")), flush=True)
    reader.swap("seen", line.strip().encode(), reader.load("seen").version)
    print("swapped", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:

        def ask(word):
            child.stdin.write(word + "\n")
            child.stdin.flush()
            answer = child.stdout.readline().strip()
            assert child.stdout.readline() == "swapped\n"
            return answer

        assert ask("one") == "sets/a/0=first"
        save.put("sets/a/1", [b"second"])
        save.delete(["sets/a/0"])
        save.sync()
        assert ask("two") == "sets/a/1=second"
        assert save.load("seen") == (b"two", 2)
        child.stdin.close()
    assert child.returncode == 0


def test_a_reader_that_fell_far_behind_looks_through_everything(registry, directory, opened):
    save = opened()
    with registry.open_save_volume(f"file://{directory}", producer=False) as reader:
        assert reader.list("") == []
        for number in range(17_000):
            save.put(f"lists/a/{number}", [b"x"])
            save.delete([f"lists/a/{number}"])
        save.put("lists/a/last", [b"here"])
        assert reader.list("") == ["lists/a/last"]
        assert bytes(reader.get("lists/a/last")) == b"here"


def test_a_reader_forgets_what_recovery_dropped(registry, directory, opened):
    save = opened()
    with registry.open_save_volume(f"file://{directory}", producer=False) as reader:
        save.put("sets/a/0", [b"torn"])
        assert reader.list("") == ["sets/a/0"]
        offset = offset_of(save, "sets/a/0")
        save.close()
        damage(directory / "sets", offset + SECTOR_BYTES)
        assert opened().dropped == ["sets/a/0"]
        assert reader.list("") == []
