# ruff: noqa: PLC0415 - each imports what it needs, and pays for nothing else
"""Upload with one of the peers that are libraries.

Usage: ``python clients.py boto3 ENDPOINT BUCKET PREFIX CA FILE…``. Each library is used as its
documentation shows. The program runs in the peers' own environment (`make peers`) and imports
nothing of this repository.
"""

import os
import sys
from pathlib import Path


def boto3(endpoint: str, bucket: str, prefix: str, ca_file: str, files: list[str]) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, verify=ca_file or None)
    for file in files:
        client.upload_file(file, bucket, f"{prefix}/{Path(file).name}")


def crt(endpoint: str, bucket: str, prefix: str, ca_file: str, files: list[str]) -> None:
    """Upload as `aws s3 cp` does: boto3's own switch to CRT accepts only Amazon's endpoint."""
    import botocore.session
    from s3transfer import crt

    session = botocore.session.Session()
    keys = crt.BotocoreCRTCredentialsWrapper(session.get_credentials())
    client = crt.create_s3_crt_client(
        "us-east-1",
        keys.to_crt_credentials_provider(),
        use_ssl=endpoint.startswith("https:"),
        verify=ca_file or None,
    )
    serializer = crt.BotocoreCRTRequestSerializer(
        session, {"region_name": "us-east-1", "endpoint_url": endpoint}
    )
    with crt.CRTTransferManager(client, serializer) as manager:
        for future in [
            manager.upload(file, bucket, f"{prefix}/{Path(file).name}") for file in files
        ]:
            future.result()


def fput(endpoint: str, bucket: str, prefix: str, ca_file: str, files: list[str]) -> None:
    from minio import Minio

    if ca_file:
        os.environ["SSL_CERT_FILE"] = ca_file
    client = Minio(
        endpoint.partition("://")[2],
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        secure=endpoint.startswith("https:"),
        region="us-east-1",
    )
    for file in files:
        client.fput_object(bucket, f"{prefix}/{Path(file).name}", file)


if __name__ == "__main__":
    _, which, endpoint, bucket, prefix, ca_file, *files = sys.argv
    {"boto3": boto3, "crt": crt, "fput": fput}[which](endpoint, bucket, prefix, ca_file, files)
