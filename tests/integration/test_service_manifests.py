"""The compose file and the manifests of examples/service: schemas, and one meaning.

The schemas of Docker Compose and Kubernetes come with packages of the extra `dev`.
cert-manager's schema comes with none of them, so its fields are checked here by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastnode.certs.authority import Authority
from fastnode.discovery import LocalDiscovery
from fastnode.limits import SHUTDOWN_TIMEOUT_SECONDS
from fastnode.names import NodeName
from fastnode.workers.stop_signals import hard_seconds
from helpers.command import TIMEOUT_SECONDS, environment, fastnode

pytestmark = [pytest.mark.one_loop, pytest.mark.long]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/service"
PAGE = (ROOT / "docs/kubernetes.md").read_text()
#: The first version with `preStop: sleep` switched on, and the newest one that the
#: package knows.
KUBERNETES_VERSIONS = ["1.30", "1.99"]
CERT_MANAGER = "cert-manager.io/v1"
#: Seconds that the end of a node may take.
END_SECONDS = hard_seconds(SHUTDOWN_TIMEOUT_SECONDS)

COMPOSE = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
SOURCES = {path: path.read_text() for path in (EXAMPLE / "kubernetes").glob("*.yaml")}
DOCUMENTS: list[dict[str, Any]] = [
    document for text in SOURCES.values() for document in yaml.safe_load_all(text)
]
SERVICES = ["billing", "gateway"]


def found(kind: str, name: str) -> Any:
    """The only document of a kind with a name."""
    (document,) = [
        each
        for each in DOCUMENTS
        if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    return document


def pod(name: str) -> Any:
    """The pod of a Deployment."""
    return found("Deployment", name)["spec"]["template"]["spec"]


def variables(name: str) -> dict[str, str]:
    """The environment of the program of a Deployment."""
    (container,) = pod(name)["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def seconds(text: str) -> int:
    """A duration of Compose, or of Go in hours."""
    number, unit = re.fullmatch(r"(\d+)([sh])", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "h": 3600}[unit]


# --- schemas -------------------------------------------------------------------------


def test_the_compose_file_fits_its_schema() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    import jsonschema

    folder = files("check_jsonschema") / "builtin_schemas/vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(COMPOSE)
    # It would say so.
    COMPOSE["services"]["billing"]["healtcheck"] = {}
    try:
        assert not validator.is_valid(COMPOSE)
    finally:
        del COMPOSE["services"]["billing"]["healtcheck"]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_manifests_fit_their_schemas(version: str) -> None:
    package = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    version = min(version, package.latest_version())
    of_kubernetes = [each for each in DOCUMENTS if each["apiVersion"] != CERT_MANAGER]
    assert {each["kind"] for each in of_kubernetes} == {
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }
    for each in of_kubernetes:
        package.validate(each, version, strict=True)
    with pytest.raises(package.ValidationError):
        package.validate({**of_kubernetes[0], "sepc": {}}, version, strict=True)


def test_the_kinds_of_cert_manager() -> None:
    """No package has its schema, so this compares the fields with its reference."""
    fields = {
        "Issuer": {"selfSigned", "ca"},
        "Certificate": {
            "commonName",
            "dnsNames",
            "duration",
            "isCA",
            "issuerRef",
            "privateKey",
            "renewBefore",
            "secretName",
            "subject",
            "uris",
            "usages",
        },
    }
    ours = [each for each in DOCUMENTS if each["apiVersion"] == CERT_MANAGER]
    issuers = {each["metadata"]["name"] for each in ours if each["kind"] == "Issuer"}
    assert len(ours) == 5
    for each in ours:
        assert each.keys() == {"apiVersion", "kind", "metadata", "spec"}
        spec = each["spec"]
        assert spec.keys() <= fields[each["kind"]]
        if each["kind"] == "Issuer":
            continue
        assert spec["issuerRef"]["kind"] == "Issuer"
        assert spec["issuerRef"]["name"] in issuers
        assert spec["privateKey"].keys() <= {"algorithm", "size", "rotationPolicy"}
        assert spec["privateKey"]["algorithm"] == "ECDSA"
        assert spec["subject" if "subject" in spec else "commonName"]
        if not spec.get("isCA"):
            assert 0 < seconds(spec["renewBefore"]) < seconds(spec["duration"])
            # A node is both sides of TLS.
            assert {"server auth", "client auth"} <= {*spec["usages"]}


# --- one meaning ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_the_certificate_covers_the_node_name_and_the_probes(name: str) -> None:
    certificate = found("Certificate", name)["spec"]
    node = NodeName.parse(variables(name)["NODE_NAME"])
    assert node.name == name
    assert certificate["uris"] == [node.uri]
    assert certificate["dnsNames"] == [node.host]
    volumes = {each["name"]: each for each in pod(name)["volumes"]}
    assert volumes["certs"]["secret"]["secretName"] == certificate["secretName"]
    (container,) = pod(name)["containers"]
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] == variables(name)["CERTS"]
    assert "subPath" not in mount  # it would never be renewed
    for probe in ("readinessProbe", "livenessProbe"):
        words = container[probe]["exec"]["command"]
        assert str(node) in words
        assert f"--name={node.host}" in words
        assert f"--as=probe@{node.host}" in words


@pytest.mark.parametrize("name", SERVICES)
def test_the_dns_has_what_the_programs_ask_for(name: str) -> None:
    service = found("Service", name)
    (port,) = service["spec"]["ports"]
    (container,) = pod(name)["containers"]
    assert service["spec"]["clusterIP"] == "None"
    labels = found("Deployment", name)["spec"]["template"]["metadata"]["labels"]
    for chosen in (
        service["spec"]["selector"],
        found("Deployment", name)["spec"]["selector"]["matchLabels"],
        found("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
    ):
        assert chosen.items() <= labels.items()
    assert container["ports"] == [
        {"name": port["targetPort"], "containerPort": port["port"]}
    ]
    assert variables(name)["LISTEN"].endswith(f":{port['port']}")
    # The example's own code makes the name.
    done = subprocess.run(
        [sys.executable, "-c", "import options; print(options.discovery())"],
        cwd=EXAMPLE,
        env={**environment(), **variables(name), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    pattern = done.stdout.split()[-1].rstrip(">").replace("{service}", name)
    labels_of_dns = f"_{port['name']}._{port['protocol'].lower()}.{name}"
    domain = f"{service['metadata']['namespace']}.svc.cluster.local."
    assert pattern == f"{labels_of_dns}.{domain}"


def test_orchestrators_wait_for_the_end() -> None:
    for name in SERVICES:
        (container,) = pod(name)["containers"]
        waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod(name)["terminationGracePeriodSeconds"] > waits + END_SECONDS
        assert found("Deployment", name)["spec"]["strategy"]["rollingUpdate"] == {
            "maxUnavailable": 0,
            "maxSurge": 1,
        }
        # Callers know the next pod before an old one ends.
        told = re.search(
            r"DNS_SECONDS = ([\d.]+)", (EXAMPLE / "options.py").read_text()
        )
        assert told
        least = found("Deployment", name)["spec"]["minReadySeconds"]
        assert min(least, waits) > float(told[1])
        for probe in ("readinessProbe", "livenessProbe"):
            (limit,) = [
                float(word.removeprefix("--timeout="))
                for word in container[probe]["exec"]["command"]
                if word.startswith("--timeout=")
            ]
            assert container[probe]["timeoutSeconds"] > limit
    for name in ("billing", "gateway", "client"):
        assert seconds(COMPOSE["services"][name]["stop_grace_period"]) > END_SECONDS


def test_the_compose_file_names_what_its_certificates_cover() -> None:
    services = COMPOSE["services"]
    issued = services["certificates"]["command"][3:]
    for name in issued:
        node = NodeName.parse(name)
        program = services[node.name]
        # The DNS name of a container is that of its service.
        assert node.host == node.name
        assert program["environment"]["NODE_NAME"] == name
        assert program["command"] == ["python", f"{node.name}.py"]
        assert (EXAMPLE / f"{node.name}.py").exists()
        where = program["environment"]["CERTS"]
        assert program["volumes"] == [f"{node.name}-certs:{where}:ro"]
        (own,) = [
            each
            for each in services["certificates"]["volumes"]
            if each.startswith(f"{node.name}-")
        ]
        assert own == f"{node.name}-certs:{where}"
    told = services["gateway"]["environment"]["BILLING_INSTANCES"]
    assert int(told) == services["billing"]["deploy"]["replicas"]


def test_the_page_has_the_manifests() -> None:
    whole = {
        document.strip()
        for text in SOURCES.values()
        for document in text.split("---\n")
    }
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        assert block.strip() in whole, block


# --- what they run -------------------------------------------------------------------


@asynccontextmanager
async def billing(folder: Path) -> AsyncIterator[str]:
    """The program of the Deployment, with a certificate as cert-manager makes it. It
    differs in where it listens and how it is found. Gives its address."""
    spec = found("Certificate", "billing")["spec"]
    authority = Authority.create()
    name = variables("billing")["NODE_NAME"]
    issued = authority.issue(name, host=False, dns=spec["dnsNames"])
    issued.save(folder / "tls.crt", folder / "tls.key")
    (folder / "ca.crt").write_bytes(authority.cert_pem)
    discovery = LocalDiscovery(folder / "nodes")
    (container,) = pod("billing")["containers"]
    _, *program = container["command"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-B",
        *program,
        cwd=EXAMPLE,
        env={
            **environment(),
            **variables("billing"),
            "CERTS": str(folder),
            "LISTEN": "127.0.0.1:0",
            "DISCOVERY": f"local:{discovery.directory}",
        },
        stdout=subprocess.DEVNULL,
    )
    watch = discovery.watch("billing")
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not (targets := await anext(watch)):
                pass
            yield f"{targets[0].host}:{targets[0].port}"
            process.terminate()
            assert await process.wait() == 0
    finally:
        await watch.aclose()
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe"])
async def test_the_probes_of_a_pod_pass(probe: str, tmp_path: Path) -> None:
    (container,) = pod("billing")["containers"]
    first, *words = container[probe]["exec"]["command"]
    assert first == "fastnode"
    async with billing(tmp_path) as address:
        done = await asyncio.to_thread(
            fastnode,
            *(
                word.replace("127.0.0.1:15000", address).replace(
                    "/certs/", f"{tmp_path}{os.sep}"
                )
                for word in words
            ),
        )
        assert done[0] == 0, done


def test_the_image_has_the_extras_that_the_programs_need() -> None:
    """The probes need the command, and DnsDiscovery needs dnspython."""
    assert (EXAMPLE / "Dockerfile").read_text().count("[cli,dns]") == 2
