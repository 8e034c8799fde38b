"""A real Prometheus reads the figures of three replicas under load: does every query of the dashboard get a value?

    python benchmarks/replicas/scrape.py [--seconds 60] [--clients 8]

Agents draw through nginx while Prometheus reads `/metrics` of the replicas, with the packaged rules. One request gets
429 from the API. Meanwhile the program asks Prometheus every query of the dashboard. Then it asks whether the alert
rules can be evaluated, and lets promtool check the figures, the rules and the configuration. It exits with 1 if a query
has no value, if a rule fails, if an alert for a broken team fires, or if promtool finds something.

It needs what `chaos.py` needs, and Prometheus with promtool (Debian's package `prometheus`).
"""

import argparse
import itertools
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import agents
import anyio
import anyio.to_thread
import httpx
import httpx2
import team
import yaml
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from team import Team, free_port

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from team_files import TEAM, panels, parsed

# Prometheus reads more often than usual, so that a minute has enough samples.
INTERVAL = "2s"
START_SECONDS = 60
# What Grafana puts instead of these variables.
VARIABLES = {"$__rate_interval": "1m", "$job": "mcp-vega"}
# Alerts that may fire here: the agents and the 429 are the load.
EXPECTED = {"RateLimited", "Spending", "OutcomeUnknown"}
REFUSED = "a fox [fault:429-retry-after]"


@contextmanager
def prometheus(folder: Path, ports: Sequence[int]) -> Generator[str]:
    """Prometheus with the packaged configuration and rules, but other targets; yields its URL."""
    folder.mkdir()
    config = parsed(TEAM / "prometheus.yml")
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(TEAM / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with subprocess.Popen(command) as process:
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


async def load(
    set_up: Team, clients: int, seconds: float, look: Callable[[], list[str]]
) -> tuple[list[str], list[str]]:
    """Draw, look after some seconds, and stop; returns what the look found, and what the agents saw that is wrong."""
    tally = agents.Tally()
    callers, rules = team.callers(clients), agents.Rules(seed=1, cancelled=12, cancelled_within=0.5)
    found: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_refused, set_up)
        tasks.start_soon(agents.draw, set_up.url, callers, itertools.count(), tally, rules)
        await anyio.sleep(seconds)
        print(f"{len(tally.seconds)} calls answered in {seconds:g} s")
        found += await anyio.to_thread.run_sync(look)
        tasks.cancel_scope.cancel()
    return found, tally.wrong


async def _refused(set_up: Team) -> None:
    """Make a call whose first request gets 429 from the API."""
    headers = {"authorization": f"Bearer {team.CALLERS['caller19']}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(300), trust_env=False) as http,
        Client(streamable_http_client(set_up.url, http_client=http)) as client,
    ):
        await client.call_tool(agents.GENERATE, {"prompt": REFUSED})


def wait_until_read(url: str, replicas: int) -> None:
    """Wait until Prometheus has read the figures of every replica once: it sees only later increases."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(httpx.HTTPError):  # while it starts, it answers 503
            if [each["value"][1] for each in asked(url, "query", query="sum(up)")["result"]] == [str(replicas)]:
                return
        if time.monotonic() > deadline:
            raise SystemExit("Prometheus does not read the figures")
        time.sleep(0.2)


def asked(url: str, path: str, **parameters: str) -> Any:
    """What Prometheus answers."""
    answer = httpx.get(f"{url}/api/v1/{path}", params=parameters, trust_env=False, timeout=30)
    answer.raise_for_status()
    return answer.json()["data"]


def without_value(url: str) -> list[str]:
    """The queries of the dashboard that get no value. Prints the others with their largest value."""
    missing: list[str] = []
    for title, query in panels():
        for name, value in VARIABLES.items():
            query = query.replace(name, value)  # noqa: PLW2901  the query as Grafana asks it
        values = [float(each["value"][1]) for each in asked(url, "query", query=query)["result"]]
        found = [value for value in values if not math.isnan(value)]  # a quantile of nothing
        print(f"{title:40} " + (f"{len(found)} series, at most {max(found):g}" if found else "NOTHING"))
        if not found:
            missing.append(f"{title}: {query}")
    return missing


def broken_rules(url: str) -> list[str]:
    """The alert rules that cannot be evaluated, or that fire although nothing is broken."""
    rules = [rule for group in asked(url, "rules")["groups"] for rule in group["rules"]]
    print("alerts: " + ", ".join(f"{rule['name']} {rule['health']} {rule['state']}" for rule in rules))
    return [
        rule["name"]
        for rule in rules
        if rule["health"] != "ok" or (rule["state"] != "inactive" and rule["name"] not in EXPECTED)
    ]


def findings(ports: Sequence[int]) -> list[str]:
    """What promtool finds in the figures, the rules and the configuration."""
    figures = [httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).content for port in ports]
    checks: list[tuple[list[str], bytes]] = [(["metrics"], each) for each in figures]
    checks += [(["config", str(TEAM / "prometheus.yml")], b""), (["rules", str(TEAM / "alerts.yml")], b"")]
    found: list[str] = []
    for arguments, given in checks:
        done = subprocess.run(
            ["/usr/bin/env", "promtool", "check", *arguments], input=given, capture_output=True, check=False
        )
        if done.returncode:
            found.append((done.stdout + done.stderr).decode())
    print(f"promtool: {len(checks)} checks, {len(found)} with findings")
    return found


def main() -> int:
    """Draw, ask, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8, help=f"at most {len(team.CALLERS) - 1}")
    options = parser.parse_args()
    if not shutil.which("prometheus", path=os.environ["PATH"]):
        raise SystemExit("This needs Prometheus")
    ports = [free_port() for _ in range(3)]
    with (
        tempfile.TemporaryDirectory() as name,
        team.running(Path(name), [{"MCP_VEGA_METRICS_PORT": str(port)} for port in ports], speed=0.3) as set_up,
        prometheus(Path(name) / "prometheus", ports) as url,
    ):
        wait_until_read(url, len(ports))
        look = partial(without_value, url)
        missing, wrong = anyio.run(load, set_up, options.clients, options.seconds, look)
        broken, found = broken_rules(url), findings(ports)
    for line in (*(f"no value: {each}" for each in missing), *(f"rule: {each}" for each in broken), *found, *wrong):
        print(line)
    return 1 if missing or broken or found or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
