"""What outside judges say of a node's TLS: a named run, not part of the suite.

    python tests/soak/judges.py --tlsfuzzer DIR --python PYTHON
    python tests/soak/judges.py --tlsfuzzer DIR --python PYTHON --only keyupdate
    python tests/soak/judges.py --testssl DIR/testssl.sh

PYTHON is an interpreter that has the tlslite-ng of tlsfuzzer's requirements.txt, and
kyber-py for the script about ML-KEM.

With `--tlsfuzzer`, the `test-tls13-*.py` scripts of a checkout of tlsfuzzer run twice:
against a node, and against `openssl s_server -www`. Both have the same certificate, the
same groups, the same ALPN protocol, and treat client certificates alike. The run prints
the conversations that pass with `s_server` and fail with the node. The status is 1 if
one of them is not in `DELIBERATE`, which says why a node differs on purpose.

The scripts are not changed, but `SHIM` runs them. It adds the ALPN protocol of fastnode
to each ClientHello, for a node refuses a dialer without it, and expects it in the
answer. It also makes the scripts choose the same random samples in both runs. They send
"GET /". `s_server` answers with a page. A node answers with a GOODBYE frame and
close_notify, for that is no frame. Both are application data, and no script looks into
it.

With `--testssl`, testssl.sh judges a node. The run prints each finding that is worse
than "OK" or "INFO". The status is 1 if one of them is not in `EXPLAINED`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    ClientAuth,
    NetworkOptions,
    NodeOptions,
    run,
    start_node,
)
from fastnode.certs.context import ALPN_PROTOCOL
from fastnode.groups import DEFAULT_GROUPS
from fastnode.limits import MAX_CLIENT_HELLO_BYTES

NODE = "judged@localhost"
#: A script that is not over by then is ended, and its other conversations do not count.
SCRIPT_SECONDS = 420.0
#: testssl.sh takes about ten minutes.
TESTSSL_SECONDS = 2400.0
TESTSSL_OPTIONS = ("--quiet", "--color", "0", "--ip", "127.0.0.1")
START_SECONDS = 30.0

#: A handshake message begins with its type and length.
HANDSHAKE_HEAD = 4
#: What SHIM prints of a conversation whose ClientHello a node refuses.
LARGE = "The ClientHello is large"
#: Runs in the interpreter that has tlslite-ng: folder, script, its arguments.
SHIM = f"""
import random, runpy, sys
folder, script = sys.argv[1:3]
sys.path.insert(0, folder)
from collections import OrderedDict
from tlslite.extensions import ALPNExtension
from tlsfuzzer.expect import ExpectEncryptedExtensions
from tlsfuzzer.messages import ClientHelloGenerator
generate, ALPN = ClientHelloGenerator.generate, 16
def with_alpn(self, state):
    if self.extensions is not None and ALPN not in self.extensions:
        ours = ALPNExtension().create([bytearray(b"{ALPN_PROTOCOL}")])
        # The first one, for a pre-shared key has to be the last.
        self.extensions = OrderedDict([(ALPN, ours), *self.extensions.items()])
    message = generate(self, state)
    if len(message.write()) > {MAX_CLIENT_HELLO_BYTES + HANDSHAKE_HEAD}:
        print("{LARGE}")
    return message
ClientHelloGenerator.generate = with_alpn
compare = ExpectEncryptedExtensions._compare_extensions_in_ee
def expect_alpn(self, *rest):
    if self.extensions is not None and ALPN not in self.extensions:
        self.extensions = dict([*self.extensions.items(), (ALPN, None)])
    return compare(self, *rest)
ExpectEncryptedExtensions._compare_extensions_in_ee = expect_alpn
random.seed(1)
sys.argv[:] = sys.argv[2:]
runpy.run_path(script, run_name="__main__")
"""


@dataclass(frozen=True)
class Scene:
    """How a server is set up, and which scripts run against it."""

    #: The kind of the key of the server, for `openssl req -newkey`.
    key: str
    auth: ClientAuth = ClientAuth.NO_CLIENT_CERT
    #: The kind of the key of the client, for scripts that show a certificate.
    client: str | None = None
    #: The first scene has all scripts that no other scene has.
    scripts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        if self.client is None:
            return self.key
        return f"{self.key}, {self.auth.name.lower()}, {self.client}"


ASKS = ClientAuth.REQUEST_CLIENT_CERT
REQUIRES = ClientAuth.REQUIRE_ANY_CLIENT_CERT
#: The same for `s_server`, which takes any certificate with these.
S_SERVER_AUTH: dict[ClientAuth, list[str]] = {
    ClientAuth.NO_CLIENT_CERT: [],
    ASKS: ["-verify", "5"],
    REQUIRES: ["-Verify", "5"],
}
#: One that several scenes have.
CONVERSATION = "conversation"
OF_CLIENTS = (
    "certificate-request",
    "certificate-verify",
    "client-certificate-compression",
)
SCENES = (
    Scene("rsa:2048"),
    Scene("rsa-pss", scripts=("rsapss-signatures", CONVERSATION)),
    Scene("P-256", scripts=("ecdsa-support", CONVERSATION)),
    Scene("ed25519", scripts=("eddsa", CONVERSATION)),
    Scene("rsa:2048", ASKS, "rsa:2048", OF_CLIENTS),
    Scene("rsa:2048", ASKS, "rsa-pss", ("certificate-verify",)),
    Scene("rsa:2048", ASKS, "P-256", ("ecdsa-in-certificate-verify",)),
    Scene("rsa:2048", ASKS, "P-384", ("ecdsa-in-certificate-verify",)),
    Scene("rsa:2048", ASKS, "ed25519", ("eddsa-in-certificate-verify",)),
    Scene("rsa:2048", ASKS, "ed448", ("eddsa-in-certificate-verify",)),
    Scene("rsa:2048", ASKS, "mldsa65", ("mldsa-in-certificate-verify",)),
    Scene("rsa:2048", REQUIRES, "rsa:2048", ("certificate-verify",)),
)
#: What OpenSSL 3.0 lists in its CertificateRequest. Newer ones list more, and then a
#: script that compares the lists fails with both servers.
SIGNATURES = (
    "ecdsa_secp256r1_sha256 ecdsa_secp384r1_sha384 ecdsa_secp521r1_sha512 ed25519 "
    "ed448 rsa_pss_pss_sha256 rsa_pss_pss_sha384 rsa_pss_pss_sha512 "
    "rsa_pss_rsae_sha256 rsa_pss_rsae_sha384 rsa_pss_rsae_sha512 rsa_pkcs1_sha256 "
    "rsa_pkcs1_sha384 rsa_pkcs1_sha512 sha224+ecdsa sha224+rsa"
)
#: Scripts that this run leaves out, and why.
LEFT_OUT = {
    "ecdsa-brainpool-in-certificate-verify": "needs a key that tlslite-ng cannot read",
    "lengths": "needs a server that echoes",
    "minerva": "measures time, and needs a packet capture",
    "non-support": "is for servers without TLS 1.3",
    "post-handshake-auth": "a node asks for certificates in the handshake only",
    "psk_dhe_ke": "needs a pre-shared key",
    "psk_ke": "needs a pre-shared key",
}
#: What scripts have to be told of both servers.
TOLD = {"large-number-of-extensions": ["--supgroup"]}
TICKETS = "no session tickets"
LARGE_HELLO = "a ClientHello above 8 KiB"
#: (script, conversation), regular expressions: how a node differs on purpose. The
#: reasons are in docs/reliability.md.
DELIBERATE: tuple[tuple[str, str, str], ...] = (
    ("session-resumption", ".*", TICKETS),
    ("connection-abort", '"After NewSessionTicket".*', TICKETS),
    ("keyupdate", "multiple KeyUpdate messages", "32 KeyUpdates before HELLO"),
    ("record-layer-limits", "too big payload in app_data.*", "16 KiB before HELLO"),
)
#: Findings of testssl.sh, by id: why a node has them.
EXPLAINED: dict[str, str] = {
    "engine_problem": "about the openssl command of this machine",
    "service": "a node does not speak HTTP",
    "NPN": "TLS 1.3 does not have it",
    "FS_KEMs": "OpenSSL has post-quantum groups from 3.5 on",
    "cert_revocation": "the certificate is made for this run",
}


# --- the servers -------------------------------------------------------------------


def key_of(kind: str) -> list[str]:
    """Options of `openssl req` for a new key of that kind."""
    if kind.startswith("P-"):
        return ["-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{kind}"]
    return ["-newkey", kind]


def certificate(folder: Path, kind: str, role: str) -> tuple[Path, Path]:
    """Make a certificate of the authority of this run, and its key, once."""
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    common = ["openssl", "req", "-x509", "-nodes"]
    if not ca.exists():
        command = [*common, "-newkey", "rsa:2048", "-days", "3650"]
        command += ["-subj", "/CN=judges CA", "-keyout", str(ca_key), "-out", str(ca)]
        subprocess.run(command, check=True, capture_output=True)
    stem = f"{role}-{kind.replace(':', '')}"
    cert, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    if not cert.exists():
        command = [*common, *key_of(kind), "-CA", str(ca), "-CAkey", str(ca_key)]
        command += ["-days", "180", "-subj", f"/CN={role}"]
        command += ["-keyout", str(key), "-out", str(cert)]
        for extension in (
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            "extendedKeyUsage=serverAuth,clientAuth",
        ):
            command += ["-addext", extension]
        subprocess.run(command, check=True, capture_output=True)
    return cert, key


async def accept(cert: str, key: str, auth: str) -> None:
    """The process that is judged. It ends with its standard input."""
    manager = CertAuthManager(Certificate.load(cert, key), client_auth=ClientAuth[auth])
    options = NodeOptions(
        cert_manager=manager,
        network=NetworkOptions(acceptors=[AcceptorOptions(host="127.0.0.1", port=0)]),
    )
    async with await start_node(NODE, options) as node:
        print(json.dumps(node.acceptors[0].address), flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextmanager
def node(folder: Path, scene: Scene) -> Iterator[int]:
    """Start a node in a process of its own.

    Yields:
        Its port.
    """
    cert, key = certificate(folder, scene.key, "server")
    with (folder / "node.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--accept",
                str(cert),
                str(key),
                scene.auth.name,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())[1]
    finally:
        process.stdin.close()
        process.wait(START_SECONDS)


def openssl_groups() -> str:
    """The groups of a node, as far as the `openssl` command has them."""
    have = [
        group
        for group in DEFAULT_GROUPS
        # Port 1 refuses the connection, but the group is looked up before.
        if "SSL_CONF"
        not in subprocess.run(
            ["openssl", "s_client", "-groups", group, "-connect", "127.0.0.1:1"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        ).stderr
    ]
    return ":".join(have)


@contextmanager
def s_server(folder: Path, scene: Scene, groups: str) -> Iterator[int]:
    """Start `openssl s_server`.

    Yields:
        Its port.
    """
    cert, key = certificate(folder, scene.key, "server")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-www"]
    command += ["-tls1_3", "-cert", str(cert), "-key", str(key)]
    command += ["-alpn", ALPN_PROTOCOL, "-groups", groups, *S_SERVER_AUTH[scene.auth]]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait(START_SECONDS)


# --- tlsfuzzer -----------------------------------------------------------------------


@dataclass
class Verdicts:
    """What a script said of each conversation: None, or what went wrong."""

    of: dict[str, str | None] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    over: bool = True


def read_verdicts(output: str) -> Verdicts:
    """Read what a script of tlsfuzzer prints."""
    verdicts = Verdicts(over="\nTOTAL:" in output)
    name, last = None, ""
    for line in output.splitlines():
        if name is None:
            if line.endswith("..."):
                name, last = line.removesuffix("...").rstrip(), ""
        elif line == LARGE:
            verdicts.large.add(name)
        elif line in {"OK", "OK-expected failure"}:
            verdicts.of.setdefault(name, None)
            name = None
        elif not line.strip() and last:
            verdicts.of[name] = last
            name = None
        elif line.strip() and not line.startswith(" "):
            last = line.strip()
    return verdicts


@dataclass(frozen=True)
class Judge:
    """A checkout of tlsfuzzer and who runs it."""

    folder: Path
    python: str

    def scripts(self) -> dict[str, Path]:
        found = sorted((self.folder / "scripts").glob("test-tls13-*.py"))
        return {p.stem.removeprefix("test-tls13-"): p for p in found}

    def ask(self, script: Path, port: int, more: list[str]) -> Verdicts:
        """Run a script against a port of this host."""
        command = [self.python, "-u", "-c", SHIM, str(self.folder), str(script)]
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port), *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            output, _ = process.communicate(timeout=SCRIPT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        verdicts = read_verdicts(output)
        if not verdicts.of:
            print(f"  {script.name} says: {output.strip()[-300:]!r}")
        return verdicts


def why_deliberate(script: str, conversation: str) -> str | None:
    for one, other, reason in DELIBERATE:
        if re.fullmatch(one, script) and re.fullmatch(other, conversation):
            return reason
    return None


@dataclass
class Sum:
    """Over all scripts."""

    scripts: int = 0
    conversations: int = 0
    passed_there: int = 0
    passed_here: int = 0
    better: int = 0
    deliberate: dict[str, int] = field(default_factory=dict)
    worse: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    def add(self, name: str, there: Verdicts, here: Verdicts, *, verbose: bool) -> None:
        self.scripts += 1
        if not (there.over and here.over):
            self.unfinished.append(name)
        if there.over and not here.over:
            self.worse.append(f"{name}: it ends with s_server only")
        worse = 0
        for each in there.of.keys() & here.of.keys():
            self.conversations += 1
            good, wrong = there.of[each] is None, here.of[each]
            self.passed_there += good
            self.passed_here += wrong is None
            self.better += not good and wrong is None
            if not good or wrong is None:
                continue
            worse += 1
            reason = why_deliberate(name.rpartition(", ")[2], each)
            if each in here.large:
                reason = reason or LARGE_HELLO
            if reason is None:
                self.worse.append(f"{name}, {each!r}: {wrong}")
            else:
                self.deliberate[reason] = self.deliberate.get(reason, 0) + 1
            if verbose or reason is None:
                print(f"  {each!r}: {wrong} [{reason or 'WORSE'}]", flush=True)
        passed = [sum(w is None for w in v.of.values()) for v in (there, here)]
        print(
            f"{name}: {len(there.of)} and {len(here.of)} conversations, "
            f"{passed[0]} pass with s_server, {passed[1]} with the node, {worse} worse",
            flush=True,
        )


def extra(
    judge: Judge, scene: Scene, folder: Path, script: str, groups: str
) -> list[str]:
    """Arguments of a script that say what the server has."""
    more = [*TOLD.get(script, ())]
    if scene.client is not None:
        cert, key = certificate(folder, scene.client, "client")
        more += ["-k", str(key), "-c", str(cert)]
        if script != "client-certificate-compression":
            more += ["-s", SIGNATURES]
    if script == "no-unknown-groups":
        names = {"P-256": "secp256r1", "P-384": "secp384r1"}
        known = [names.get(g, g.lower()) for g in groups.split(":")]
        more += ["--groups", ",".join(known)]
    return more


def tlsfuzzer(judge: Judge, only: str, *, verbose: bool) -> bool:
    """Run the scripts; whether no conversation is worse."""
    total, groups = Sum(), openssl_groups()
    scripts = judge.scripts()
    elsewhere = {s for scene in SCENES[1:] for s in scene.scripts} - {CONVERSATION}
    with (
        tempfile.TemporaryDirectory() as temporary,
        ThreadPoolExecutor(2) as threads,
    ):
        folder = Path(temporary)
        for scene in SCENES:
            names = scene.scripts or sorted(scripts.keys() - elsewhere - {*LEFT_OUT})
            names = [n for n in names if n in scripts and re.search(only, n)]
            if not names:
                continue
            try:
                certificate(folder, scene.client or scene.key, "client")
            except subprocess.CalledProcessError:
                print(f"{scene.name}: left out, openssl has no such key")
                continue
            with node(folder, scene) as ours:
                for name in names:
                    with s_server(folder, scene, groups) as theirs:
                        more = extra(judge, scene, folder, name, groups)
                        there, here = threads.map(
                            lambda port: judge.ask(scripts[name], port, more),  # noqa: B023
                            (theirs, ours),
                        )
                    total.add(f"{scene.name}, {name}", there, here, verbose=verbose)
    print(
        f"\n{total.scripts} runs of scripts, {total.conversations} conversations with "
        f"both: {total.passed_there} pass with s_server, {total.passed_here} with the "
        f"node, {total.better} only with the node"
    )
    for reason, count in total.deliberate.items():
        print(f"differs on purpose in {count}: {reason}")
    for name in total.unfinished:
        print(f"not finished: {name}")
    for line in total.worse:
        print(f"WORSE: {line}")
    return not total.worse


# --- testssl.sh --------------------------------------------------------------------


def testssl(program: Path) -> bool:
    """Run testssl.sh; whether it finds nothing that is not explained."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report = folder / "report.json"
        more = ["--add-ca", str(folder / "ca.pem"), "--jsonfile", str(report)]
        with node(folder, Scene("P-256")) as port:
            subprocess.run(
                [program, *TESTSSL_OPTIONS, *more, f"localhost:{port}"],
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=TESTSSL_SECONDS,
                env={**os.environ, "TERM": "dumb"},
            )
        findings = json.loads(report.read_text())
    bad = [f for f in findings if f["severity"] not in {"OK", "INFO"}]
    print(f"\n{len(findings)} findings, {len(bad)} worse than OK or INFO")
    for each in bad:
        why = EXPLAINED.get(each["id"])
        print(f"{each['severity']} {each['id']}: {each['finding']} [{why or 'NEW'}]")
    return all(f["id"] in EXPLAINED for f in bad)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--accept", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--tlsfuzzer", type=Path, help="a checkout of tlsfuzzer")
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter with its tlslite-ng"
    )
    parser.add_argument("--only", default="", help="scripts, a regular expression")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--testssl", type=Path, help="testssl.sh")
    args = parser.parse_args()
    if args.accept:
        run(accept(*args.accept))
        return 0
    if not (args.tlsfuzzer or args.testssl):
        parser.error("give --tlsfuzzer, --testssl, or both")
    good = True
    if args.tlsfuzzer:
        judge = Judge(args.tlsfuzzer.resolve(), args.python)
        good &= tlsfuzzer(judge, args.only, verbose=args.verbose)
    if args.testssl:
        good &= testssl(args.testssl)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
