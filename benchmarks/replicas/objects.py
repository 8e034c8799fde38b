"""The processor time that a replica needs to put a picture into a bucket, and to get it.

    python benchmarks/replicas/objects.py [--pictures 200]

The pictures are those of `api.py`, a JPEG of 0.36 MB and a PNG of 1.4 MB. The bucket is moto's S3 server on loopback,
without TLS. Only this process is measured, not moto. TLS and a network would need more.
"""

import argparse
import asyncio
import os
import time

import bucket
from api import picture

from mcp_vega.storage.images.object_storage.address import BucketAddress
from mcp_vega.storage.images.object_storage.client import StorageClient

RETRY_SECONDS = 5


async def measure(client: StorageClient, name: str, data: bytes, pictures: int) -> None:
    """Put and get pictures, and print."""
    keys = [f"{name}/{number}.{name}" for number in range(pictures)]
    await client.create(f"{name}/first", data, RETRY_SECONDS)  # not counted: it connects
    began = time.process_time()
    for key in keys:
        await client.create(key, data, RETRY_SECONDS)
    put = (time.process_time() - began) / pictures * 1000
    began = time.process_time()
    for key in keys:
        await client.read(key, RETRY_SECONDS)
    got = (time.process_time() - began) / pictures * 1000
    print(f"{name:6} {len(data):11,} {put:9.2f} {got:9.2f}")


async def run(address: BucketAddress, pictures: int) -> None:
    """Measure both kinds."""
    client = StorageClient(address)
    print(f"{'':6} {'bytes':>11} {'put, ms':>9} {'get, ms':>9}   of processor time")
    for name in ("jpeg", "png"):
        await measure(client, name, picture(name), pictures)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    options = parser.parse_args()
    with bucket.running() as served:
        os.environ |= {**bucket.KEYS, "AWS_ENDPOINT_URL": served.server, "AWS_ALLOW_HTTP": "true"}
        asyncio.run(run(BucketAddress("s3", bucket.BUCKET, bucket.PREFIX), options.pictures))


if __name__ == "__main__":
    main()
