"""What a status says of a bucket: how it is used, and that it does not answer."""

from __future__ import annotations

import io

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from rich.console import Console

from replkit.backends.s3.store import S3ObjectStore
from replkit.backends.s3.url import parse_url
from replkit.cli.status import render
from replkit.errors import StoreRefusedError, StoreUnavailableError
from replkit.site import bucketstate


def spec(place="s3://site/disk", options=""):
    return {"name": "disk-bucket", "url": f"{place}/volume{options}", "save_url": f"{place}/save{options}"}


class Client:
    """Answers as told: with an error, or with an object."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def get_object(self, **_):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"Body": io.BytesIO(answer)}


AWAY = EndpointConnectionError(endpoint_url="http://s3.example.org")
REFUSED = ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "GetObject")


@pytest.mark.requirement("R8")
def test_a_bucket_that_does_not_answer_is_said_to_be_away_until_it_answers(monkeypatch):
    monkeypatch.setattr(bucketstate, "TROUBLE_AFTER_S", 0.0)
    where = spec("s3://away/disk")
    store = S3ObjectStore(parse_url("s3://away/other?retry_s=0"), Client(AWAY, AWAY, b"here"))
    bucketstate.check_answers(where)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            store.get("key")
        with pytest.raises(StoreUnavailableError, match="bucket away has not answered for 0 s: Could not connect"):
            bucketstate.check_answers(where)
    bucketstate.check_answers(spec("s3://another/disk"))
    assert store.get("key") == b"here"
    bucketstate.check_answers(where)


def test_a_short_trouble_and_a_refusal_are_no_absence(monkeypatch):
    store = S3ObjectStore(parse_url("s3://short/other?retry_s=0"), Client(AWAY, REFUSED))
    with pytest.raises(StoreUnavailableError):
        store.get("key")
    bucketstate.check_answers(spec("s3://short/disk"))
    monkeypatch.setattr(bucketstate, "TROUBLE_AFTER_S", 0.0)
    with pytest.raises(StoreRefusedError):
        store.get("key")
    bucketstate.check_answers(spec("s3://short/disk"))


def test_what_the_url_says_is_told():
    options = "?fencing=off&limit=1MiB/s&limit_down=2MiB/s&requests=8&encrypt=file:///etc/keys"
    assert bucketstate.bucket_fields(spec(options=options)) == {
        "url": "s3://site/disk/volume", "fencing": False, "encrypted": True, "limit_up": "1MiB/s",
        "limit_down": "2MiB/s", "requests_at_a_time": 8,
    }  # fmt: skip
    assert bucketstate.bucket_fields({"url": "file:///srv/disk", "save_url": "file:///srv/save"}) is None


@pytest.mark.requirement("R8")
def test_people_see_what_a_bucket_was_asked_for_and_that_it_is_not_fenced():
    spent = {"puts": 1200, "creates": 34, "gets": 5, "lists": 6, "deletes": 7}
    spent |= {"bytes_put": 3 << 20, "bytes_got": 4 << 10}
    volume = {
        "name": "disk-bucket", "role": "secondary", "requests": {"today": {"gets": 1}, "total": spent},
        "bucket": bucketstate.bucket_fields(spec(options="?fencing=off")),
    }  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    site = {"site": "a", "pid": 1, "version": "1", "listen": None, "encrypted": False}
    console.print(render({**site, "volumes": [volume], "workers": []}))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "disk-bucket it was made 1,234 5 6 7 3.0 MiB 4.0 KiB" in lines
    assert "disk-bucket today (UTC) 0 1 0 0 0 B 0 B" in lines
    assert any(line.startswith("disk-bucket: fencing is off") for line in lines)
