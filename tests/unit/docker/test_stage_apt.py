# SPDX-License-Identifier: AGPL-3.0-or-later
"""The caller's CA_BUNDLE and NETRC reach apt: Debian's own apt-get, at a repository on loopback behind TLS and a login.

In folders of the test's own; the machine's packages and lists stay as they are. Run by root, apt reads certificates as another user, as in a build.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.docker.loopback import served
from tests.unit.docker.test_stages import SECRETS

ROOT = Path(__file__).resolve().parents[3]
LOGIN = "machine 127.0.0.1 login me password secret\n"
AUTHORITY = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=mirror
echo subjectAltName=IP:127.0.0.1 >names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile names
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user may look into, which pytest's are not, with certificates."""
    if not shutil.which("apt-get") or not shutil.which("openssl"):
        pytest.skip("needs apt-get and openssl")
    with tempfile.TemporaryDirectory(prefix="yolov12-apt-") as name:
        Path(name).chmod(0o755)
        subprocess.run(["bash", "-euc", AUTHORITY], cwd=name, capture_output=True, check=True)
        yield Path(name)


@pytest.fixture(scope="module")
def mirror(place: Path) -> Iterator[str]:
    """Address of a repository of no packages."""
    packages = place / "mirror/dists/stable/main/binary-amd64/Packages"
    packages.parent.mkdir(parents=True)
    packages.write_text("")
    (place / "mirror/dists/stable/Release").write_text(
        "Codename: stable\nComponents: main\nArchitectures: amd64\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(b'').hexdigest()} 0 main/binary-amd64/Packages\n"
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(place / "server.crt", place / "server.key")
    with served(place / "mirror", login="me:secret", tls=tls) as server:
        yield server.address


def update(place: Path, mirror: str, secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`apt-get update` as a stage calls it, with these secrets in the modes of the Dockerfile."""
    folder = Path(tempfile.mkdtemp(dir=place))
    folder.chmod(0o755)
    for name in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/sources.list").write_text(f"deb [trusted=yes arch=amd64] {mirror} stable main\n")
    (folder / "state/status").write_text("")
    (folder / "apt.conf").write_text(
        f'Dir::Etc "{folder}/etc"; Dir::State "{folder}/state"; Dir::State::status "{folder}/state/status";\n'
        f'Dir::Cache "{folder}/cache"; Acquire::Languages "none"; Acquire::Retries "0"; APT::Update::Error-Mode "any";\n'
    )
    for name, content in secrets.items():
        (mount,) = (one for one in SECRETS if one.partition("target=/run/secrets/")[2].split(",")[0] == name)
        (folder / name).write_text(content)
        (folder / name).chmod(int(mount.partition("mode=")[2] or "0400", 8))
    common = (ROOT / "docker/stages/common.sh").read_text().replace("/run/secrets", str(folder))
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        ["bash", "-euc", f'{common}\nuse_secrets\napt-get -qq "${{apt_options[@]}}" update'],
        env=environment | {"APT_CONFIG": str(folder / "apt.conf")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_apt_trusts_the_certificates_and_uses_the_login(place: Path, mirror: str):
    done = update(place, mirror, {"ca.crt": (place / "ca.crt").read_text(), "netrc": LOGIN})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("secrets", "words"),
    [(("netrc",), "certificate issuer is unknown"), (("ca.crt",), "401")],
    ids=["login", "certificate"],
)
def test_with_one_of_them_alone_the_repository_is_not_read(
    place: Path, mirror: str, secrets: tuple[str, ...], words: str
):
    contents = {"ca.crt": (place / "ca.crt").read_text(), "netrc": LOGIN}
    done = update(place, mirror, {name: contents[name] for name in secrets})
    assert done.returncode == 100
    assert words in done.stderr
