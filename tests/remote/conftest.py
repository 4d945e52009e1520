"""A bucket behind a door that injects faults."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from servers import Bucket, Faults, door, s3_server

if os.environ.get("DALI_PIPES_REQUIRE_INTEGRATIONS") != "1":
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("flask", reason="moto's server is not installed")


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(s3_port: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    import boto3
    import fsspec

    name = f"b{abs(hash(request.node.nodeid)) % 10**12}"
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{s3_port}",
        region_name="us-east-1",
        aws_access_key_id="key-of-the-tests",
        aws_secret_access_key="secret-of-the-tests",
    )
    client.create_bucket(Bucket=name)
    faults = Faults()
    with door(s3_port, faults) as port:
        settings = {
            "key": "key-of-the-tests",
            "secret": "secret-of-the-tests",
            "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"},
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }
        monkeypatch.setitem(fsspec.config.conf, "s3", settings)  # as users configure fsspec
        yield Bucket(f"s3://{name}/archive", client, faults)
    client.close()
