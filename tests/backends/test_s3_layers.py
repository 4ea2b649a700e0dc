"""Options of ``s3:`` URLs for untrusted and costly buckets: encryption, limits, counts; and the commands for them."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import stat
import threading
import traceback

import pytest
from click.testing import CliRunner

from replkit.backends.s3 import layers, probe
from replkit.backends.s3.keyfile import create_keys, read_keys, rotate_keys
from replkit.backends.s3.url import parse_url
from replkit.cli.main import main
from replkit.contracts.volume import Capability
from replkit.errors import (
    AlreadyExistsError,
    CorruptRecordError,
    InvalidArgumentError,
    KeyMissingError,
    NotFoundError,
    ReplkitError,
)
from replkit.testing import s3_servers
from replkit.testing.savevolume_suite import SaveVolumeSuite, SaveVolumeWorld
from replkit.testing.volume_suite import VolumeSuite, VolumeWorld

_numbers = itertools.count()


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "bucket.keys"
    create_keys(path)
    return path


def url_on(place, **options):
    """A prefix of its own; the bucket counts as probed."""
    endpoint, bucket = place
    probe._passed.add((endpoint, bucket))
    query = "".join(f"&{name}={value}" for name, value in options.items())
    return f"s3://{bucket}/layers{next(_numbers)}?endpoint={endpoint}{query}"


@pytest.fixture
def url(moto_bucket, s3_credentials, keys):
    return url_on(moto_bucket, encrypt=f"file://{keys}")


def run(*words):
    return CliRunner().invoke(main, ["s3", *map(str, words)])


def read(volume, block, count):
    buffer = bytearray(count * volume.block_size)
    volume.read_into(block, memoryview(buffer))
    return buffer


def bodies(url):
    place = parse_url(url)
    client = s3_servers.s3_client(place.endpoint)
    found = client.list_objects_v2(Bucket=place.bucket, Prefix=f"{place.prefix}/")["Contents"]
    result = {i["Key"]: client.get_object(Bucket=place.bucket, Key=i["Key"])["Body"].read() for i in found}
    client.close()
    return result


# -- encryption --


@pytest.mark.requirement("U2")
def test_all_that_lies_in_the_bucket_is_encrypted(registry, url):
    with registry.open_volume(url, create=True, size_bytes=1 << 20) as volume:
        volume.write(0, b"attack at dawn! " * 256)
        volume.flush()
    with registry.open_save_volume(f"{url}", create=True) as save:
        save.put("sets/a/0", [b"attack at dawn! "])
        save.swap("word", b"attack at dawn! ", 0)
        save.sync()
    found = bodies(url)
    assert len(found) > 5
    assert [key for key, body in found.items() if not body.startswith(b"RKSO")] == []
    assert [key for key, body in found.items() if b"attack" in body] == []


@pytest.mark.requirement("U2")
class TestEncryptedVolumeOnSeaweed(VolumeSuite):
    follows_writer = False
    discards = tells_in_use = resizes = Capability.NATIVE

    @pytest.fixture
    def world(self, registry, seaweed_bucket, s3_credentials, keys):
        return VolumeWorld(registry=registry, url=url_on(seaweed_bucket, encrypt=f"file://{keys}"))


@pytest.mark.slow
@pytest.mark.requirement("U2", "S1", "S2")
class TestEncryptedSaveVolumeOnSeaweed(SaveVolumeSuite):
    @pytest.fixture
    def world(self, registry, seaweed_bucket, s3_credentials, keys):
        return SaveVolumeWorld(registry=registry, url=url_on(seaweed_bucket, encrypt=f"file://{keys}"), rot=None)


def test_after_a_rotation_old_and_new_objects_are_read_and_the_old_file_names_what_it_lacks(registry, url, keys):
    before = keys.read_bytes()
    with registry.open_volume(url, create=True, size_bytes=1 << 20) as volume:
        volume.write(0, b"o" * 4096)
        volume.flush()
    newest = rotate_keys(keys).newest.key_id
    with registry.open_volume(url) as volume:
        volume.write(1, b"n" * 4096)
        volume.flush()
        assert read(volume, 0, 2) == b"o" * 4096 + b"n" * 4096
    keys.write_bytes(before)
    with pytest.raises(KeyMissingError, match=rf"key {newest}, which {keys} does not have .*put the line"):
        registry.open_volume(url)


def test_a_plain_prefix_and_an_encrypted_one_are_not_taken_for_one_another(registry, moto_bucket, s3_credentials, keys):
    plain = url_on(moto_bucket)
    registry.open_volume(plain, create=True, size_bytes=1 << 20).close()
    with pytest.raises(CorruptRecordError, match="is not encrypted"):
        registry.open_volume(f"{plain}&encrypt=file://{keys}")
    encrypted = url_on(moto_bucket, encrypt=f"file://{keys}")
    registry.open_volume(encrypted, create=True, size_bytes=1 << 20).close()
    with pytest.raises(CorruptRecordError):
        registry.open_volume(encrypted.partition("&encrypt")[0])


# -- key files --


def test_a_key_file_is_for_its_owner_only(keys):
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    rotate_keys(keys)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o620, 0o602, 0o644):
        keys.chmod(mode)
        for use in (read_keys, rotate_keys):
            with pytest.raises(InvalidArgumentError, match="chmod 600"):
                use(keys)


def test_a_key_file_is_never_overwritten_and_rotations_do_not_meet(keys):
    before = keys.read_bytes()
    with pytest.raises(AlreadyExistsError, match="keys rotate"):
        create_keys(keys)
    beside = keys.with_name("bucket.keys.new")
    beside.touch()
    with pytest.raises(AlreadyExistsError, match="another rotation"):
        rotate_keys(keys)
    assert keys.read_bytes() == before
    beside.unlink()
    refused = []

    def rotate():
        try:
            rotate_keys(keys)
        except AlreadyExistsError as error:
            refused.append(error)

    threads = [threading.Thread(target=rotate) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(keys).key_ids) == 1 + 12 - len(refused)
    assert not beside.exists()


def test_a_missing_key_file_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(NotFoundError, match="no key file"):
        read_keys(tmp_path / "absent")
    with pytest.raises(ReplkitError, match="absent"):
        create_keys(tmp_path / "absent" / "keys")


@pytest.mark.parametrize("value", ["", "/etc/keys", "file://host/keys", "https://host/keys", "file:keys"])
def test_an_encrypt_option_that_names_no_file_never_means_no_encryption(value, moto_bucket, s3_credentials):
    with pytest.raises(InvalidArgumentError):
        layers.open_store(parse_url(url_on(moto_bucket, encrypt=value)), writes=False)


def test_no_secret_is_in_outputs_logs_or_tracebacks(registry, moto_bucket, s3_credentials, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    file, told = tmp_path / "k", []
    for words in (("new", file), ("rotate", file), ("list", file), ("list", file, "--json"), ("new", file)):
        told.append(run("keys", *words).output)
    secrets = [line.split()[2] for line in file.read_text().splitlines()[2:]]
    assert len(secrets) == 2
    url = url_on(moto_bucket, encrypt=f"file://{file}")
    with registry.open_volume(url, create=True, size_bytes=1 << 20) as volume:
        volume.write(0, b"x" * 4096)
        volume.flush()
        told.append(repr(vars(volume.inner)))
    told += [run("usage", url).output, run("usage", url, "--json").output, repr(parse_url(url))]

    def failing():
        try:
            registry.open_volume(url)
        except ReplkitError as error:
            told.append("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
        else:
            pytest.fail("opened")

    whole = file.read_text()
    file.write_text(whole.replace(secrets[1], secrets[1][:-3] + "AB="))  # a damaged line
    failing()
    told.append(run("keys", "list", file).output)
    file.write_text("\n".join(line for line in whole.splitlines() if secrets[1] not in line))  # a missing key
    failing()
    file.write_text(whole)
    client = s3_servers.s3_client(moto_bucket[0])
    for key, body in bodies(url).items():
        client.put_object(Bucket=moto_bucket[1], Key=key, Body=body[:-1] + bytes([body[-1] ^ 1]))
    client.close()
    failing()  # damaged objects
    everything = "\n".join([*told, caplog.text])
    assert "is damaged" in everything
    assert "does not have" in everything
    assert "is not what was encrypted" in everything
    raw = [repr(base64.b64decode(secret))[2:18] for secret in secrets]
    assert [secret for secret in [*(secret[:12] for secret in secrets), *raw] if secret in everything] == []


def test_a_put_carries_its_md5_where_the_url_asks_for_it(seaweed_bucket, s3_credentials):
    for md5, carried in (("yes", True), ("no", False)):
        store = layers.open_store(parse_url(url_on(seaweed_bucket, md5=md5)), writes=False)
        bare, seen = store._inner, []
        bare._client.meta.events.register(
            "before-send.s3", lambda request, seen=seen, **_: seen.append(request.headers)
        )
        store.put("a", [b"data"])
        store.put_new("b", b"data")
        assert [bool(headers.get("Content-MD5")) for headers in seen] == [carried, carried]
        assert store.get("a") == store.get("b") == b"data"  # SeaweedFS refuses one that is wrong
        store.close()


# -- limits and counts --


def test_a_limit_is_shared_by_all_openers_of_a_bucket_in_a_process(moto_bucket, s3_credentials):
    places = [parse_url(url_on(moto_bucket, limit="1MiB/s", requests=3)) for _ in range(2)]
    first, second = (layers.open_store(place, writes=False) for place in places)
    begun_s = layers.ThreadRuntime().monotonic()
    first.put("a", [os.urandom(400_000)])
    second.put("b", [b"after what the first one owes"])
    assert layers.ThreadRuntime().monotonic() - begun_s > 0.3
    for store in (first, second):
        store.close()


@pytest.mark.parametrize(
    "options", [{"limit": "fast"}, {"limit": ""}, {"limit_down": "1MB/s"}, {"requests": "0"}, {"requests": "many"}]
)
def test_limits_that_are_none_are_refused(options):
    with pytest.raises(InvalidArgumentError):
        parse_url(url_on(("http://127.0.0.1:9", "bucket"), **options))


def test_what_was_paid_for_is_shown_after_all_have_closed(registry, moto_bucket, s3_credentials, keys):
    url = url_on(moto_bucket, encrypt=f"file://{keys}", metered="yes")
    assert "Nothing was counted" in run("usage", url).output
    with registry.open_volume(url, create=True, size_bytes=8 << 20) as volume:
        volume.write(0, os.urandom(1 << 20))
        volume.flush()
        (here,) = layers.usage_here()[parse_url(url).name]
        assert here["today"]["bytes_put"] > 1 << 20
        assert volume.requests["bytes put"] == here["today"]["bytes_put"]
    first = json.loads(run("usage", url, "--json").output)
    assert first["total"]["bytes_put"] > 1 << 20
    assert first["total"]["put_new_requests"] >= 2
    registry.open_volume(url).close()
    second = json.loads(run("usage", url, "--json").output)
    assert second["total"]["get_requests"] > first["total"]["get_requests"]
    assert "put requests" in run("usage", url).output
    with registry.open_volume(url, read_only=True) as reader:  # a reader of the bucket writes nothing
        read(reader, 0, 1)
    assert json.loads(run("usage", url, "--json").output) == second


def test_a_check_of_an_encrypted_prefix_leaves_nothing_plain(url):
    result = run("check", url, "--rounds", 4)
    assert "ranges" in result.output
    assert [key for key, body in bodies(url).items() if not body.startswith(b"RKSO")] == []


def test_a_scrub_of_an_encrypted_volume_finds_what_was_altered(registry, url):
    with registry.open_volume(url, create=True, size_bytes=1 << 20) as volume:
        volume.write(0, os.urandom(40 * 4096))
        volume.flush()
    result = run("scrub", url)
    assert (result.exit_code, "40 blocks" in result.output, "0 damaged" in result.output) == (0, True, True)
    ((key, body),) = [item for item in bodies(url).items() if "/data/" in item[0]]
    place = parse_url(url)
    client = s3_servers.s3_client(place.endpoint)
    client.put_object(Bucket=place.bucket, Key=key, Body=body[:70_000] + bytes([body[70_000] ^ 1]) + body[70_001:])
    client.close()
    found = json.loads((result := run("scrub", url, "--json")).output)
    assert result.exit_code == 1
    assert "segment 1 is not what was encrypted" in found["damage"][0]
