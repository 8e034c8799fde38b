"""The files that run the engine on Ray agree with each other, without Ray."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import read

from mcp_vega.settings import Settings

FOLDER = Path(__file__).parents[1] / "packaging" / "ray"
MANIFEST: list[dict[str, Any]] = list(yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text(encoding="utf-8")))
README = read("packaging/ray/README.md")
DOCKERFILE = read("packaging/ray/Dockerfile")


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in MANIFEST if each["kind"] == kind)
    return found


SERVICE = of_kind("RayService")
CLUSTER: dict[str, Any] = SERVICE["spec"]["rayClusterConfig"]
GROUPS: list[dict[str, Any]] = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
(APPLICATION,) = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])["applications"]


def module() -> ast.Module:
    return ast.parse((FOLDER / "engine_cluster.py").read_text(encoding="utf-8"))


def options() -> set[str]:
    """What `serve run engine_cluster:build` takes."""
    (found,) = (each for each in module().body if isinstance(each, ast.ClassDef) and each.name == "Options")
    return {
        each.target.id for each in found.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def containers() -> list[dict[str, Any]]:
    return [each["template"]["spec"]["containers"][0] for each in GROUPS]


def test_the_manifest_names_a_function_and_options_that_exist() -> None:
    name, function = APPLICATION["import_path"].split(":")
    assert f"packaging/ray/{name}.py" in DOCKERFILE
    assert function in {each.name for each in module().body if isinstance(each, ast.FunctionDef)}
    assert set(APPLICATION["args"]) <= options()


def test_the_readme_lists_all_options() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == options()
    used = re.findall(r"(\w+)=", " ".join(re.findall(r"engine_cluster:build (.*)", README)))
    assert used
    assert set(used) <= options()


def test_all_files_name_the_same_version_of_ray() -> None:
    benchmark = read("benchmarks/ray_cluster.py")
    found = re.findall(r"ray(?:\[serve\]==|:)(\d+\.\d+\.\d+)", README + DOCKERFILE + benchmark)
    assert len(found) >= 4
    assert {*found, CLUSTER["rayVersion"]} == {found[0]}


def test_a_pod_does_not_start_without_the_key() -> None:
    for container in containers():
        (key,) = (
            each for each in container["env"] if each["name"] in {f.alias for f in Settings.model_fields.values()}
        )
        assert key["name"] == "MCP_VEGA_ENGINE_KEY"
        reference = key["valueFrom"]["secretKeyRef"]
        assert "optional" not in reference
        assert f"generic {reference['name']} --from-literal={reference['key']}=" in README


def test_the_replicas_find_the_weights_where_the_job_puts_them() -> None:
    (volume,) = of_kind("Job")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert f"HF_HOME={volume['mountPath']}" in DOCKERFILE
    (worker,) = containers()[1:]
    assert [each["mountPath"] for each in worker["volumeMounts"]] == [volume["mountPath"]]
    claim = of_kind("PersistentVolumeClaim")["metadata"]["name"]
    (mounted,) = CLUSTER["workerGroupSpecs"][0]["template"]["spec"]["volumes"]
    assert mounted["persistentVolumeClaim"]["claimName"] == claim


def test_there_are_as_many_machines_as_replicas_may_draw() -> None:
    (group,) = CLUSTER["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (
        APPLICATION["args"]["replicas"],
        APPLICATION["args"]["most_replicas"],
    )


def test_the_outside_reaches_the_front_only_over_tls() -> None:
    spec = of_kind("Ingress")["spec"]
    (rule,) = spec["rules"]
    assert [rule["host"]] == spec["tls"][0]["hosts"]
    service = rule["http"]["paths"][0]["backend"]["service"]
    assert service["name"] == f"{SERVICE['metadata']['name']}-serve-svc"
    assert "Service" not in {each["kind"] for each in MANIFEST}


@pytest.mark.parametrize("name", ["rayservice.yaml", "Dockerfile"])
def test_what_was_not_run_says_so(name: str) -> None:
    assert re.search("not run", read(f"packaging/ray/{name}"), re.IGNORECASE)
    assert re.search(rf"Not run:[^.]*`{re.escape(name)}`", README)
