"""The steps of compose.yaml without a container engine: does the team that it describes draw pictures?

    python benchmarks/replicas/by_hand.py

Variables, addresses, ports and commands come from compose.yaml, packaging/Dockerfile and packaging/team. Each replica
runs in a network namespace of its own (Linux, root), with the address that it has in compose.yaml. PostgreSQL, the S3
server and nginx run in one more namespace. Instead of SeaweedFS there is moto, which asks for no keys. The paths in a
container are folders of a temporary folder here.

The program makes a call through nginx with each version of the protocol, looks for its job through every replica, runs
the health checks, reads the figures as Prometheus does, gives a replica a new token (SIGHUP), and stops a replica. It
exits with 1 if one of these steps fails.

It needs PostgreSQL, nginx, openssl, iproute2, and the packages moto[server], psycopg and pyyaml.
"""

import argparse
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from services import PostgresServer, folder_of_postgres
from team_files import ENVIRONMENT, ROOT, TEAM, address_of, compose, parsed, replicas

MODES = ("legacy", "2026-07-28")
HUB = "vega-compose"
# The addresses of the services that have none of their own in compose.yaml, from its range for these.
NAMES = {"postgres": "10.213.0.130", "s3": "10.213.0.131"}
TOKENS = ("the-first-token-of-alice", "the-second-token-of-alice")
NGINX = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/nginx-errors.txt;
events {{}}
http {{
    include {config};
}}
"""
START_SECONDS = 60


def run(*command: str | Path) -> None:
    """Run a command."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def inside(namespace: str) -> list[str]:
    """The words before a command that runs in a network namespace."""
    return ["ip", "netns", "exec", namespace]


def wait_for(happened: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + START_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {START_SECONDS} s")
        time.sleep(0.1)


def answers(url: str, certificates: Path | None = None) -> bool:
    """Whether a GET gets the status 200."""
    context = ssl.create_default_context(cafile=certificates) if certificates else True
    try:
        return httpx.get(url, trust_env=False, timeout=5, verify=context).status_code == 200
    except httpx.TransportError:
        return False


# ---- the network ----


@contextmanager
def network(services: Mapping[str, Any]) -> Generator[None]:
    """The namespaces, with the names and addresses of compose.yaml, while the block runs."""
    team = {name: address_of(service) for name, service in replicas(services).items()}
    hosts = "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **NAMES, **team}.items())
    with ExitStack() as stack:
        for namespace in (HUB, *(f"{HUB}-{name}" for name in team)):
            run("ip", "netns", "add", namespace)
            stack.callback(run, "ip", "netns", "delete", namespace)
            run(*inside(namespace), "ip", "link", "set", "lo", "up")
            folder = Path("/etc/netns") / namespace  # `ip netns exec` puts these files over those in /etc
            folder.mkdir(parents=True)
            stack.callback(shutil.rmtree, folder)
            (folder / "hosts").write_text(hosts, encoding="utf-8")
        run(*inside(HUB), "ip", "link", "add", "bridge", "type", "bridge")
        run(*inside(HUB), "ip", "link", "set", "bridge", "up")
        for address in (address_of(services["nginx"]), *NAMES.values()):
            run(*inside(HUB), "ip", "address", "add", f"{address}/24", "dev", "bridge")
        for number, (name, address) in enumerate(team.items()):
            there = f"{HUB}-{name}"
            run(*inside(HUB), "ip", "link", "add", f"port{number}", "type", "veth", "peer", "eth0", "netns", there)
            run(*inside(HUB), "ip", "link", "set", f"port{number}", "up", "master", "bridge")
            run(*inside(there), "ip", "address", "add", f"{address}/24", "dev", "eth0")
            run(*inside(there), "ip", "link", "set", "eth0", "up")
        yield


# ---- the services ----


@contextmanager
def process(
    *command: str | Path, log: Path, env: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """A process while the block runs. Its output is in a file."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


@contextmanager
def postgres(service: Mapping[str, Any]) -> Generator[None]:
    """PostgreSQL with the user, the password and the database of compose.yaml."""
    programs = folder_of_postgres()
    if programs is None:
        raise SystemExit("This needs PostgreSQL")
    server = PostgresServer(programs)
    try:
        with (server.folder / "data" / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write("host all all 10.213.0.0/24 scram-sha-256\n")
        server.start(listen_addresses=NAMES["postgres"], fsync="on")
        environment = service["environment"]
        server.execute(f"ALTER USER {environment['POSTGRES_USER']} PASSWORD '{environment['POSTGRES_PASSWORD']}'")
        server.execute(f"CREATE DATABASE {environment['POSTGRES_DB']}")
        yield
    finally:
        server.close()


@contextmanager
def s3(service: Mapping[str, Any], folder: Path) -> Generator[None]:
    """An S3 server with the certificate, the port and the bucket of compose.yaml."""
    options = dict(each[1:].split("=") for each in service["command"][1:])
    files = [folder / Path(options[f"s3.{name}.file"]).name for name in ("cert", "key")]
    server = [sys.executable, "-m", "moto.server", "-H", NAMES["s3"], "-p", options["s3.port"]]
    url, certificates = f"https://s3:{options['s3.port']}", folder / "trusted.pem"
    with process(*server, "-c", files[0], "-k", files[1], log=folder / "s3.txt"):
        wait_for(lambda: answers(url, certificates), "the S3 server")
        context = ssl.create_default_context(cafile=certificates)
        bucket = service["environment"]["S3_BUCKET"]
        httpx.put(f"{url}/{bucket}", trust_env=False, verify=context).raise_for_status()
        yield


@contextmanager
def nginx(folder: Path) -> Generator[None]:
    """The proxy with the packaged configuration, unchanged."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, config=TEAM / "nginx.conf"), encoding="utf-8")
    run(program, "-t", "-q", "-c", config)
    with process(program, "-c", config, log=folder / "nginx.txt"):
        yield


class Replica:
    """A replica as its service describes it.

    Args:
        name: The name of the service.
        service: The service.
        folder: The folder for what is in containers and volumes.
    """

    def __init__(self, name: str, service: Mapping[str, Any], folder: Path) -> None:
        self.name = name
        self.url = f"http://{address_of(service)}:8000"
        self.check = service["healthcheck"]["test"][1:]
        places = {"/ledger": folder / name, "/certificates": folder, "/run/secrets": folder / "secrets"}
        self.environment = {
            "PATH": os.environ["PATH"],
            **{key: _placed(value, places) for key, value in service["environment"].items()},
        }
        self.log = folder / f"{name}.txt"
        (folder / name).mkdir()

    @contextmanager
    def running(self) -> Generator["Replica"]:
        """Run it with the command of the image while the block runs."""
        dockerfile = (ROOT / "packaging" / "Dockerfile").read_text(encoding="utf-8")
        (found,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
        command = [*inside(f"{HUB}-{self.name}"), sys.executable, "-m", "mcp_vega", *json.loads(found)]
        with process(*command, log=self.log, env=self.environment) as self.process:
            yield self

    def is_healthy(self) -> bool:
        """Whether its health check says so."""
        command = [*inside(f"{HUB}-{self.name}"), sys.executable, *self.check[1:]]
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended:\n{self.log.read_text(encoding='utf-8')}")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _placed(value: str, places: Mapping[str, Path]) -> str:
    """A variable whose path in a container is replaced by the path here."""
    return next((f"{path}{value.removeprefix(each)}" for each, path in places.items() if value.startswith(each)), value)


# ---- the steps ----


async def call(url: str, mode: str, tool: str, arguments: dict[str, Any], token: str = TOKENS[0]) -> dict[str, Any]:
    """Call a tool; returns the job. The name in the request is always that of this machine, as behind nginx."""
    headers = {"authorization": f"Bearer {token}", "host": "localhost"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(60), trust_env=False) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.meta
    return result.meta["mcp-vega/job"]


async def draw(url: str, mode: str, prompt: str, token: str = TOKENS[0]) -> dict[str, Any]:
    """Draw a picture."""
    job = await call(url, mode, "generate_image_vegart", {"prompt": prompt}, token)
    assert job["state"] == "COMPLETED", job
    return job


async def steps(url: str, team: list[Replica], secrets: Path, grace: float) -> None:
    """Do what people and Docker do."""
    for mode in MODES:
        job = await draw(url, mode, f"a fox, {mode}")
        print(f"a picture through nginx, {mode}: {job['images'][0]['uri']}")
        for replica in team:
            found = await call(replica.url, mode, "check_job", {"request_id": job["request_id"]})
            assert found["images"] == job["images"]
        print("  and check_job through every replica shows it")
    (secrets / "auth_tokens").write_text(f"alice:{TOKENS[1]}\n", encoding="utf-8")
    for replica in team:
        replica.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + START_SECONDS
    for replica in team:
        while not await _accepts(replica.url, TOKENS[1]):
            assert time.monotonic() < deadline, f"{replica.name} does not know the new token"
    print("after SIGHUP, every replica accepts the new token")
    began = time.monotonic()
    team[0].process.send_signal(signal.SIGTERM)
    assert team[0].process.wait(grace) == 0
    print(f"a replica without jobs stops in {time.monotonic() - began:.1f} s (Docker waits for {grace:.0f} s)")
    for mode in MODES:
        await draw(url, mode, f"an owl, {mode}", TOKENS[1])
    print("and the others draw")


async def _accepts(url: str, token: str) -> bool:
    async with httpx2.AsyncClient(trust_env=False) as http:
        headers = {"authorization": f"Bearer {token}", "host": "localhost"}
        return (await http.get(f"{url}/gallery/images", headers=headers)).status_code != 401


def work() -> None:
    """Start everything in this namespace and those of the replicas, and do the steps."""
    services = compose({**ENVIRONMENT, "MCP_VEGA_SANDBOX": "1"})["services"]
    published = services["nginx"]["ports"][0].rpartition(":")[2]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        secrets = folder / "secrets"
        secrets.mkdir()
        (secrets / "segmind_api_key").write_text("SG_none\n", encoding="utf-8")
        (secrets / "auth_tokens").write_text(f"alice:{TOKENS[0]}\n", encoding="utf-8")
        run("sh", TEAM / "certificate.sh", folder, "s3")
        stack.enter_context(postgres(services["postgres"]))
        stack.enter_context(s3(services["s3"], folder))
        described = [Replica(each, service, folder) for each, service in replicas(services).items()]
        team = [stack.enter_context(replica.running()) for replica in described]
        stack.enter_context(nginx(folder))
        for replica in team:
            wait_for(replica.is_healthy, replica.name)
        url = f"http://127.0.0.1:{published}"
        wait_for(lambda: answers(f"{url}/livez"), "nginx")
        print("every replica and nginx pass the health checks")
        for target in parsed(TEAM / "prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]:
            shown = httpx.get(f"http://{target}/metrics", trust_env=False).text
            assert "\nmcp_vega_ready 1.0" in shown, shown[:500]
        print("every replica serves its figures, at the address that Prometheus reads")
        grace = replicas(services)[team[0].name]["stop_grace_period"]
        anyio.run(steps, url, team, secrets, float(grace.removesuffix("s")))


def main() -> None:
    """Make the network, and run this program in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().inside:
        work()
        return
    with network(compose()["services"]):
        run_inside = [*inside(HUB), sys.executable, __file__, "--inside"]
        sys.exit(subprocess.run(run_inside, check=False).returncode)


if __name__ == "__main__":
    main()
