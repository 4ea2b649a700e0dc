"""Save volumes and volumes at ``s3:`` URLs pass the suites, over HTTP, on moto and on SeaweedFS.

The default run has each suite on one of the two servers, the slow one on both.
"""

from __future__ import annotations

import itertools

import pytest

from replkit.backends.s3 import probe
from replkit.backends.s3.store import S3ObjectStore
from replkit.backends.s3.url import parse_url
from replkit.contracts.volume import Capability
from replkit.testing import s3_servers
from replkit.testing.savevolume_suite import SaveVolumeSuite, SaveVolumeWorld
from replkit.testing.volume_suite import VolumeSuite, VolumeWorld

_numbers = itertools.count()


def place_on(endpoint, bucket):
    """A prefix of its own; the bucket is probed with a short race, the long one is in test_s3_probe."""
    place = parse_url(f"s3://{bucket}/t{next(_numbers)}?endpoint={endpoint}")
    if (endpoint, bucket) not in probe._passed:
        store = S3ObjectStore(place)
        probe.require_fencing(store, place, writers=2, rounds=3)
        store.close()
    return endpoint, bucket, place.prefix


class OnMoto:
    @pytest.fixture
    def place(self, moto_bucket, s3_credentials):
        return place_on(*moto_bucket)


class OnSeaweed:
    @pytest.fixture
    def place(self, seaweed_bucket, s3_credentials):
        return place_on(*seaweed_bucket)


class SaveVolumes(SaveVolumeSuite):
    @pytest.fixture
    def world(self, registry, place):
        endpoint, bucket, prefix = place

        def rot(data):
            client = s3_servers.s3_client(endpoint)
            for item in client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]:
                body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
                where = body.find(data)
                if where >= 0:
                    rotten = body[:where] + bytes([body[where] ^ 1]) + body[where + 1 :]
                    client.put_object(Bucket=bucket, Key=item["Key"], Body=rotten)
            client.close()

        url = f"s3://{bucket}/{prefix}?endpoint={endpoint}"
        return SaveVolumeWorld(registry=registry, url=url, rot=rot)


class Volumes(VolumeSuite):
    follows_writer = False
    discards = tells_in_use = resizes = Capability.NATIVE

    @pytest.fixture
    def world(self, registry, place):
        endpoint, bucket, prefix = place
        return VolumeWorld(registry=registry, url=f"s3://{bucket}/{prefix}?endpoint={endpoint}")


@pytest.mark.slow
@pytest.mark.requirement("U2", "U3", "S1", "S2")
class TestSaveVolumeOnMoto(OnMoto, SaveVolumes):
    pass


@pytest.mark.requirement("U2", "U3", "S1", "S2")
class TestSaveVolumeOnSeaweed(OnSeaweed, SaveVolumes):
    pass


@pytest.mark.requirement("U2", "U3")
class TestVolumeOnMoto(OnMoto, Volumes):
    pass


@pytest.mark.slow
@pytest.mark.requirement("U2", "U3")
class TestVolumeOnSeaweed(OnSeaweed, Volumes):
    pass
