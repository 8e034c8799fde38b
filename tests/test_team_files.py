"""The files that run a team agree with the code, the docs and each other: compose.yaml, nginx, Prometheus, Grafana."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import blocks, read
from services import require_packages
from team_files import ENVIRONMENT, ROOT, TEAM, address_of, alerts, compose, directives, panels, parsed, replicas
from test_packaging import LAST

from mcp_vega.settings import Settings
from mcp_vega.telemetry.recorder import Load

COMPOSE = compose()
SERVICES: dict[str, Any] = COMPOSE["services"]
REPLICAS = replicas(SERVICES)
NGINX = directives((TEAM / "nginx.conf").read_text(encoding="utf-8"))
DASHBOARD: dict[str, Any] = json.loads((TEAM / "grafana-dashboard.json").read_text(encoding="utf-8"))
# The variables of a replica that other programs define: obstore, Python and uvicorn.
OF_OTHERS = {
    *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"),
    *("SSL_CERT_FILE", "TMPDIR", "FORWARDED_ALLOW_IPS"),
}


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """What is at a path in the container: a volume's name, or a path here."""
    pairs = (each.split(":")[:2] for each in service.get("volumes", ()))
    return {place: source for source, place in pairs}


def location(config: list[str]) -> list[str]:
    return config[config.index("location / {") :]


# ---- compose.yaml ----


def test_a_replica_has_only_variables_that_somebody_reads() -> None:
    names = {field.alias for field in Settings.model_fields.values()} | OF_OTHERS
    assert len(REPLICAS) == 3
    for service in REPLICAS.values():
        assert service["environment"].keys() <= names


@pytest.mark.skipif(sys.platform == "win32", reason="the paths in a container are those of Linux")
@pytest.mark.parametrize("sandbox", ["0", "1"])
def test_the_settings_of_a_replica_can_be_used(tmp_path: Path, sandbox: str) -> None:
    for service in replicas(compose({**ENVIRONMENT, "MCP_VEGA_SANDBOX": sandbox})["services"]).values():
        environment = dict(service["environment"])
        secrets = [name for name, value in environment.items() if value.startswith("/run/secrets/")]
        assert {environment[name].removeprefix("/run/secrets/") for name in secrets} == set(service["secrets"])
        for name in secrets:
            environment[name] = str(tmp_path / name)
            (tmp_path / name).write_text("a-secret-of-a-test-with-some-length", encoding="utf-8")
        settings = Settings.from_environment(environment)
        assert str(settings.api_key_file) == environment["SEGMIND_API_KEY_FILE"]
        assert str(settings.auth_tokens_file) == environment["MCP_VEGA_AUTH_TOKENS_FILE"]
        assert settings.sandbox == (sandbox == "1")
        assert settings.gallery_url.startswith(f"s3://{SERVICES['s3']['environment']['S3_BUCKET']}/")
        assert (
            settings.ledger_name == f"postgresql://postgres:5432/{SERVICES['postgres']['environment']['POSTGRES_DB']}"
        )


@pytest.mark.parametrize("missing", ENVIRONMENT)
def test_without_its_secrets_nothing_starts(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        compose({name: value for name, value in ENVIRONMENT.items() if name != missing})


def test_each_replica_has_a_disk_and_an_address_of_its_own_and_the_rest_in_common() -> None:
    disks = [mounts(service)[service["environment"]["MCP_VEGA_HOME"]] for service in REPLICAS.values()]
    assert len(set(disks)) == len({address_of(service) for service in REPLICAS.values()}) == 3
    assert set(disks) <= COMPOSE["volumes"].keys()
    own = ("volumes", "networks", "build")
    common = [{k: v for k, v in each.items() if k not in own} for each in REPLICAS.values()]
    assert common[0] == common[1] == common[2]
    # The other folder that can hold paid pictures is on the same disk.
    assert common[0]["environment"]["TMPDIR"] == common[0]["environment"]["MCP_VEGA_HOME"]


def test_a_replica_is_killed_only_after_its_jobs_had_their_time_to_end() -> None:
    for service in REPLICAS.values():
        drain = float(service["environment"]["MCP_VEGA_DRAIN_SECONDS"])
        assert int(service["stop_grace_period"].removesuffix("s")) >= drain + 10


def test_no_secret_is_in_a_committed_file() -> None:
    raw = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for name in ("POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        assert set(re.findall(rf"{name}: (\S+)", raw)) <= {"${POSTGRES_PASSWORD:?set", "${S3_SECRET_KEY:?set"}
    ignored = read(".gitignore").splitlines()
    assert "/.env" in ignored
    assert {Path(each["file"]).parts[0] for each in COMPOSE["secrets"].values()} == {"secrets"}
    assert "/secrets/" in ignored


def test_the_limits_of_a_team_can_be_set_without_a_change_of_the_file() -> None:
    limits = {
        **{f"MCP_VEGA_SPENDING_LIMIT_USD{each}": "7" for each in ("", "_EACH")},
        **{f"MCP_VEGA_{each}": "7" for each in ("REQUESTS_PER_MINUTE", "CALLS_AT_ONCE")},
    }
    for service in replicas(compose({**ENVIRONMENT, **limits})["services"]).values():
        assert limits.items() <= service["environment"].items()


def test_one_service_builds_the_image_that_others_use() -> None:
    (builder,) = [name for name, service in SERVICES.items() if "build" in service]
    assert builder in REPLICAS  # the others can be replaced by a service in a cloud
    assert (ROOT / SERVICES[builder]["build"]["dockerfile"]).exists()
    ours = {name: service for name, service in SERVICES.items() if service["image"] == "mcp-vega"}
    assert ours.keys() == {*REPLICAS, "certificate"}
    assert {service["pull_policy"] for service in ours.values()} == {"never"}


def test_the_images_of_others_have_a_version_and_name_no_registry() -> None:
    for name, service in SERVICES.items():
        if service["image"] != "mcp-vega":
            owner, _, image = service["image"].rpartition("/")
            assert "." not in owner, name
            assert re.search(r":v?\d+\.\d+", image), name


def test_the_files_that_are_mounted_exist_and_no_address_is_reachable_from_other_machines() -> None:
    for service in SERVICES.values():
        for source in mounts(service).values():
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_the_s3_server_has_the_address_the_keys_and_the_certificate_that_the_replicas_use() -> None:
    server, certificate = SERVICES["s3"], SERVICES["certificate"]
    options = dict(each[1:].split("=") for each in server["command"][1:])
    *_, folder, host = certificate["entrypoint"]
    for service in REPLICAS.values():
        environment = service["environment"]
        assert environment["AWS_ENDPOINT_URL"] == f"https://{host}:{options['s3.port']}"
        assert {name: environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")} == {
            name: value for name, value in server["environment"].items() if name.startswith("AWS_")
        }
        assert environment["SSL_CERT_FILE"] == f"{folder}/trusted.pem"
        assert mounts(service)[folder] == mounts(server)[folder] == mounts(certificate)[folder]
    assert (options["s3.cert.file"], options["s3.key.file"]) == (f"{folder}/{host}.pem", f"{folder}/{host}.key")
    assert options["ip"] == host


@pytest.mark.skipif(sys.platform != "linux", reason="the script runs in the image")
def test_the_certificate_stays_and_the_usual_certificates_are_those_of_the_image(tmp_path: Path) -> None:
    if not (shutil.which("openssl") and Path("/etc/ssl/certs/ca-certificates.crt").exists()):
        pytest.skip("openssl or the usual certificates are missing")
    script = ("sh", TEAM / "certificate.sh", tmp_path, "s3")
    subprocess.run(script, check=True, capture_output=True)
    mine, trusted = (tmp_path / "s3.pem").read_text(), tmp_path / "trusted.pem"
    assert trusted.read_text().endswith(mine)
    trusted.write_text("the certificates of an older image")
    subprocess.run(script, check=True, capture_output=True)
    assert (tmp_path / "s3.pem").read_text() == mine
    assert trusted.read_text().endswith(mine)


# ---- nginx ----


def test_nginx_spreads_the_requests_over_the_replicas() -> None:
    servers = [re.sub(r"server (\S+) .*", r"\1", line) for line in NGINX if line.startswith("server 1")]
    assert servers == [f"{address_of(service)}:{LAST['EXPOSE']}" for service in REPLICAS.values()]
    (port,) = [line.removeprefix("listen ").rstrip(";") for line in NGINX if line.startswith("listen ")]
    assert SERVICES["nginx"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    for service in REPLICAS.values():
        assert service["environment"]["FORWARDED_ALLOW_IPS"] == address_of(SERVICES["nginx"])


def test_nginx_never_sends_a_call_twice_and_is_the_one_in_the_docs() -> None:
    (documented,) = [block.text for block in blocks(read("docs/team.md")) if "upstream vega {" in block.text]
    assert location(NGINX) == location(directives(documented))
    options = [line.partition("8000 ")[2] for line in NGINX if line.startswith("server 1")]
    assert options == [line.partition("8000 ")[2] for line in directives(documented) if line.startswith("server 1")]
    assert "proxy_next_upstream error timeout;" in NGINX
    assert not [line for line in NGINX if "non_idempotent" in line]


# ---- Prometheus and Grafana ----


def test_prometheus_reads_the_figures_of_every_replica() -> None:
    config = parsed(TEAM / "prometheus.yml")
    (job,) = config["scrape_configs"]
    (static,) = job["static_configs"]
    ports = [service["environment"]["MCP_VEGA_METRICS_PORT"].rpartition(":")[2] for service in REPLICAS.values()]
    assert static["targets"] == [f"{name}:{port}" for name, port in zip(REPLICAS, ports, strict=True)]
    folder = mounts(SERVICES["prometheus"])
    assert set(folder) >= {f"/etc/prometheus/{name}" for name in ("prometheus.yml", *config["rule_files"])}


def test_the_dashboard_uses_the_data_source_that_its_reader_chooses() -> None:
    (source,) = [each for each in DASHBOARD["templating"]["list"] if each["type"] == "datasource"]
    chosen = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == chosen, panel["title"]
            assert panel["targets"], panel["title"]


def figures() -> set[str]:
    """The names of the figures that a replica serves, with the endings of counters and histograms."""
    require_packages("prometheus_client")
    from mcp_vega.telemetry.prometheus import Labels, PrometheusRecorder

    recorder = PrometheusRecorder("1", Labels((), ()), lambda: Load({}, 0, 0, 0, 0))
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {f"{each.name}{end}" for each in recorder.registry.collect() for end in endings.get(each.type, ("",))}


@pytest.mark.services
@pytest.mark.parametrize("query", [*dict.fromkeys(query for _, query in panels()), *alerts().values()])
def test_the_figures_in_a_query_exist(query: str) -> None:
    named = set(re.findall(r"\b(?:mcp_vega|process)_[a-z_]+\b", query)) - {"mcp_vega"}
    if not named:
        assert query == 'up{job="mcp-vega"} == 0'  # Prometheus's own
    if sys.platform == "linux":  # prometheus_client has no figures of the process elsewhere
        assert named <= figures()


@pytest.mark.services
def test_every_figure_is_on_the_dashboard() -> None:
    shown = " ".join(query for _, query in panels())
    mine = {name for name in figures() if name.startswith("mcp_vega_")}
    # A histogram is shown by its buckets.
    assert {name for name in mine if not name.endswith(("_sum", "_count"))} - set(re.findall(r"\w+", shown)) == set()
