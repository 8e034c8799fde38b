"""moto's S3 server in a process of its own, and what is in its bucket."""

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

sys.path.append(str(Path(__file__).parents[1]))
from processes import Served, stand_in

if TYPE_CHECKING:
    from obstore.store import S3Store

BUCKET, PREFIX = "pictures", "team"
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}


@contextmanager
def running() -> Generator["Bucket"]:
    """Serve an empty bucket while the block runs."""
    with stand_in(__file__) as served:
        httpx.put(f"{served.url}/{BUCKET}", trust_env=False).raise_for_status()
        yield Bucket(served)


class Bucket:
    """The bucket, without the proxy in front of it."""

    def __init__(self, served: Served) -> None:
        self.server = served.url
        self.pid = served.pid

    def contents(self) -> Counter[str]:
        """The SHA-256 hashes of all pictures."""
        return Counter(sha256(data).hexdigest() for path, data in self.objects().items() if path.endswith(".jpg"))

    def objects(self) -> dict[str, bytes]:
        """All files by their names."""
        import obstore

        store = self._store()
        paths = [entry["path"] for part in obstore.list(store) for entry in part]
        return {path: bytes(obstore.get(store, path).bytes()) for path in paths}

    def fill(self, objects: Mapping[str, bytes]) -> None:
        """Put files into the bucket."""
        import obstore

        store = self._store()
        for path, data in objects.items():
            obstore.put(store, path, data)

    def _store(self) -> "S3Store":
        from obstore.store import S3Store

        return S3Store(
            BUCKET,
            prefix=PREFIX,
            config={
                "endpoint": self.server,
                "access_key_id": KEYS["AWS_ACCESS_KEY_ID"],
                "secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"],
                "region": KEYS["AWS_REGION"],
            },
            client_options={"allow_http": True},
        )


def main() -> None:
    """Serve until stdin ends."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    print(json.dumps(f"http://127.0.0.1:{server.get_host_and_port()[1]}"), flush=True)
    sys.stdin.read()
    os._exit(0)  # its threads would wait for their clients


if __name__ == "__main__":
    main()
