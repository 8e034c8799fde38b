"""The files of a team as their programs read them: compose.yaml, nginx's configuration, Prometheus's queries."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).parent.parent
TEAM = ROOT / "packaging" / "team"
ENVIRONMENT = {"POSTGRES_PASSWORD": "the-password-of-a-test", "S3_SECRET_KEY": "the-secret-of-a-test"}
# ${NAME:-default} and ${NAME:?message}
VARIABLE = re.compile(r"\$\{(\w+):([-?])([^}]*)\}")


def parsed(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(path.read_text(encoding="utf-8")))


def compose(environment: Mapping[str, str] = ENVIRONMENT) -> dict[str, Any]:
    """compose.yaml with its variables filled in, as an engine does it. If a mandatory one is missing: KeyError."""

    def value(found: re.Match[str]) -> str:
        name, kind, default = found.groups()
        return environment[name] if kind == "?" else environment.get(name) or default

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: filled(each) for name, each in cast("dict[str, Any]", part).items()}
        if isinstance(part, list):
            return [filled(each) for each in cast("list[Any]", part)]
        return VARIABLE.sub(value, part) if isinstance(part, str) else part

    return filled(parsed(ROOT / "compose.yaml"))


def replicas(services: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that are replicas."""
    return {name: each for name, each in services.items() if "MCP_VEGA_LEDGER" in each.get("environment", {})}


def address_of(service: Mapping[str, Any]) -> str:
    """The IP address of a service that has a fixed one."""
    return service["networks"]["default"]["ipv4_address"]


def directives(config: str) -> list[str]:
    """The directives and the beginnings of blocks in a configuration of nginx, without comments."""
    lines = (line.partition("#")[0].strip() for line in config.splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if line not in ("", "}")]


def panels() -> Iterator[tuple[str, str]]:
    """The queries of the dashboard, with the titles of their panels."""
    dashboard = json.loads((TEAM / "grafana-dashboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def alerts() -> dict[str, str]:
    """The expressions of the alert rules, by the alert's name."""
    (group,) = parsed(TEAM / "alerts.yml")["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}
