"""Which server, and as whom: kubectl's rules on files, users, plugins, pods and proxies."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from imagestreams.cli.kubeconfig import Access, Credentials, KubeconfigError, Overrides, load, proxy_for

CA = b"-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n"


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write(path: Path, *, server="https://api.example:6443", user=None, cluster=None, context=None, current="c") -> Path:
    """A kubeconfig with one of each, named c."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current,
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "c", "user": user or {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c", **(context or {})}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def loaded(home: Path, overrides: Overrides | None = None, **environ: str) -> Access:
    return load(overrides or Overrides(), {"HOME": str(home), **environ}, service_account=home / "no-pod")


def credentials_of(home: Path, user: dict[str, object], **environ: str) -> Credentials:
    write(home / ".kube/config", user=user)
    return loaded(home, **environ).credentials()


def refusal(home: Path, overrides: Overrides | None = None, **environ: str) -> str:
    with pytest.raises(KubeconfigError) as caught:
        loaded(home, overrides, **environ).credentials()
    return str(caught.value)


# ---- files ----


def test_the_users_own_file(home):
    write(home / ".kube/config", context={"namespace": "shop"})
    access = loaded(home)
    assert (access.server, access.namespace) == ("https://api.example:6443", "shop")
    assert access.origin == f"context 'c' of {home}/.kube/config"
    assert access.credentials() == Credentials()


def test_what_is_not_said_has_its_default(home):
    write(home / ".kube/config", server="https://api.example/k8s/")
    access = loaded(home)
    assert (access.server, access.namespace, access.authorities) == ("https://api.example/k8s", "default", b"")
    assert (access.insecure, access.server_name, access.proxy, access.impersonation) == (False, "", "", ())


def test_the_flag_beats_the_environment_beats_the_home(home, tmp_path):
    write(home / ".kube/config", server="https://home")
    environ = write(tmp_path / "e", server="https://environ")
    flag = write(tmp_path / "f", server="https://flag")
    assert loaded(home).server == "https://home"
    assert loaded(home, KUBECONFIG=str(environ)).server == "https://environ"
    assert loaded(home, Overrides(kubeconfig=str(flag)), KUBECONFIG=str(environ)).server == "https://flag"


def test_files_are_merged_and_the_first_that_has_an_entry_wins(home, tmp_path):
    """Relative paths start at the folder of the file that has them."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/ca.pem").write_bytes(CA)
    first = write(
        tmp_path / "one/config", server="https://first", cluster={"certificate-authority": "ca.pem"}, current=""
    )
    second = write(tmp_path / "two/config", server="https://second", user={"token": "t"}, current="c")
    environ = os.pathsep.join([str(tmp_path / "missing"), "", str(first), str(second)])
    access = loaded(home, KUBECONFIG=environ)
    assert (access.server, access.authorities) == ("https://first", CA)
    assert access.credentials().authorization == "", "the first file's user has no token, and the second is not asked"


def test_flags_choose_context_cluster_user_and_namespace(home):
    path = home / ".kube/config"
    path.parent.mkdir(parents=True)
    path.write_text("""
clusters:
- {name: a, cluster: {server: https://a}}
- {name: b, cluster: {server: https://b}}
users:
- {name: a, user: {token: ta}}
- {name: b, user: {token: tb}}
contexts:
- {name: a, context: {cluster: a, user: a, namespace: na}}
- {name: b, context: {cluster: b, user: b}}
current-context: a
""")

    def chosen(**flags: str) -> tuple[str, str, str]:
        access = loaded(home, Overrides(**flags))
        return access.server, access.credentials().authorization, access.namespace

    assert chosen() == ("https://a", "Bearer ta", "na")
    assert chosen(context="b") == ("https://b", "Bearer tb", "default")
    assert chosen(cluster="b") == ("https://b", "Bearer ta", "na")
    assert chosen(user="b", namespace="x") == ("https://a", "Bearer tb", "x")
    assert refusal(home, Overrides(context="z")) == f"kubeconfig {path}: context 'z' does not exist (there are: a, b)"
    assert refusal(home, Overrides(cluster="z")) == f"kubeconfig {path}: cluster 'z' does not exist (there are: a, b)"
    assert refusal(home, Overrides(user="z")) == f"kubeconfig {path}: user 'z' does not exist (there are: a, b)"


def test_a_cluster_without_a_context_is_asked_by_nobody(home):
    write(home / ".kube/config", current="", user={"token": "t"})
    access = loaded(home, Overrides(cluster="c"))
    assert (access.server, access.credentials()) == ("https://api.example:6443", Credentials())


def test_scalars_stay_as_they_are_written(home):
    """YAML would make numbers, dates and booleans of them; Go's clients do not."""
    path = home / ".kube/config"
    path.parent.mkdir(parents=True)
    path.write_text("""
clusters: [{name: 2024-01-01, cluster: {server: "https://a", insecure-skip-tls-verify: true, extensions: null}}]
users: [{name: 0x10, user: {token: 0123}}]
contexts: [{name: on, context: {cluster: 2024-01-01, user: 0x10, namespace: null}}]
current-context: on
preferences: {}
""")
    access = loaded(home)
    assert (access.insecure, access.namespace) == (True, "default")
    assert access.credentials().authorization == "Bearer 0123"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "no valid YAML at line 2"),
        ("users:\n- name: a\n  user: {token: secret\n", "no valid YAML at line 4"),
        ("clusters: {a: b}", "Expected `array`, got `object` - at `$.clusters`"),
        ("- a", "Expected `object`, got `array`"),
    ],
)
def test_a_broken_file(home, content, words):
    path = home / ".kube/config"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    message = refusal(home)
    assert message.startswith(f"kubeconfig {path}: {words}")
    assert "secret" not in message


def test_an_endless_file(home):
    path = home / ".kube/config"
    path.parent.mkdir(parents=True)
    path.write_text("#" * (4 << 20) + "\n")
    assert refusal(home) == f"{path} is larger than 4 MiB: no kubeconfig, certificate or token"


@pytest.mark.parametrize("overrides", [Overrides(kubeconfig="/nowhere/config")])
def test_a_file_that_was_asked_for_must_exist(home, overrides):
    assert refusal(home, overrides) == "kubeconfig /nowhere/config: no such file"


def test_nothing_at_all(home):
    assert refusal(home) == (
        "there is no cluster to talk to: $KUBECONFIG names no file that exists, there is no ~/.kube/config, and this "
        "is no pod with a service account; name a file with --kubeconfig"
    )
    assert refusal(home, Overrides(context="a")) == "kubeconfig: there is no file: context 'a' does not exist"


def test_no_context_is_current(home):
    path = write(home / ".kube/config", current="")
    assert refusal(home) == f"kubeconfig {path}: no context is current; name one with --context (there are: c)"


def test_a_server_must_be_a_url(home):
    path = write(home / ".kube/config", server="api.example")
    assert refusal(home) == f"kubeconfig {path}: cluster 'c' has no server that starts with https:// or http://"


# ---- trust ----


def test_the_clusters_tls(home):
    write(
        home / ".kube/config",
        cluster={
            "certificate-authority-data": text(CA),
            "certificate-authority": "/ignored",
            "tls-server-name": "other",
            "proxy-url": "http://proxy:3128",
        },
    )
    access = loaded(home)
    assert (access.authorities, access.server_name, access.proxy) == (CA, "other", "http://proxy:3128")


def test_authorities_that_cannot_be_read(home):
    path = write(home / ".kube/config", cluster={"certificate-authority": "ca.pem"})
    assert refusal(home) == (
        f"kubeconfig {path}: cannot read the certificate-authority of 'c', {path.parent}/ca.pem: "
        "No such file or directory"
    )
    write(path, cluster={"certificate-authority-data": "%"})
    assert refusal(home) == f"kubeconfig {path}: certificate-authority-data of 'c' is no base64"


# ---- users ----


def test_tokens_and_passwords(home):
    assert credentials_of(home, {"token": "t"}).authorization == "Bearer t"
    assert credentials_of(home, {"username": "u", "password": "p"}).authorization == f"Basic {text(b'u:p')}"
    assert credentials_of(home, {"token": "t", "username": "u"}).authorization == "Bearer t"


def test_a_token_file_is_read_anew_each_time(home):
    path = home / ".kube/token"
    write(home / ".kube/config", user={"tokenFile": "token", "token": "static"})
    path.write_text("one\n")
    access = loaded(home)
    assert access.credentials().authorization == "Bearer one"
    path.write_text("two\n")
    assert access.credentials().authorization == "Bearer two"
    path.unlink()
    with pytest.raises(KubeconfigError, match=r"cannot read the tokenFile of 'c', .*/token: No such file"):
        access.credentials()


def test_client_certificates(home):
    data = {"client-certificate-data": text(b"cert"), "client-key-data": text(b"key")}
    assert credentials_of(home, data) == Credentials("", b"cert", b"key")
    (home / ".kube/crt").write_bytes(b"file")
    mixed = {"client-certificate": "crt", "client-key-data": text(b"key"), "token": "t"}
    assert credentials_of(home, mixed) == Credentials("Bearer t", b"file", b"key")


def test_a_certificate_without_its_key(home):
    path = write(home / ".kube/config", user={"client-certificate-data": text(b"cert")})
    assert refusal(home) == f"kubeconfig {path}: user 'c' needs both client-certificate and client-key, and has one"


def test_no_credential_goes_over_plain_http(home):
    write(home / ".kube/config", server="http://127.0.0.1:8001", user={"token": "t"})
    assert loaded(home).credentials() == Credentials()


def test_a_token_that_no_header_can_hold_is_refused_and_not_repeated(home):
    path = write(home / ".kube/config", user={"token": "sec\nret"})
    assert refusal(home) == f"kubeconfig {path}: the token of user 'c' holds characters that no token has"


def test_nothing_secret_is_in_a_repr(home):
    granted = credentials_of(
        home, {"token": "secret", "client-certificate-data": text(b"c"), "client-key-data": "c2Vj"}
    )
    write(home / ".kube/config", user={"token": "secret"}, cluster={"proxy-url": "http://me:secret@proxy"})
    for shown in (repr(granted), repr(loaded(home))):
        assert "secret" not in shown.replace(str(home), "")
        assert "c2Vj" not in shown


def test_old_auth_providers(home):
    oidc = {"auth-provider": {"name": "oidc", "config": {"id-token": "jwt", "client-id": "x"}}}
    assert credentials_of(home, oidc).authorization == "Bearer jwt"
    path = write(home / ".kube/config", user={"auth-provider": {"name": "gcp"}})
    assert refusal(home) == (
        f"kubeconfig {path}: user 'c' has the auth provider 'gcp', which is not supported; use an exec plugin"
    )


def test_impersonation_by_the_kubeconfig_or_by_flags(home):
    user = {"as": "jane", "as-uid": "1", "as-groups": ["a", "b"], "as-user-extra": {"x/y": ["z"]}}
    write(home / ".kube/config", user=user)
    assert loaded(home).impersonation == (
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "1"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-x%2Fy", "z"),
    )
    flags = Overrides(as_user="joe", as_groups=("c",))
    assert loaded(home, flags).impersonation == (("Impersonate-User", "joe"), ("Impersonate-Group", "c"))
    assert refusal(home, Overrides(as_groups=("c",))) == (
        "--as-group needs --as: groups cannot be impersonated without a user"
    )
    assert refusal(home, Overrides(as_user="a\r\nb")) == (
        "a user, group or extra to impersonate holds control characters"
    )


# ---- exec plugins ----

V1 = "client.authentication.k8s.io/v1"
V1BETA1 = "client.authentication.k8s.io/v1beta1"


def plugin(home: Path, script: str, name: str = "plugin") -> Path:
    """A credential plugin in the kubeconfig's folder; `script` is Python with `info` from KUBERNETES_EXEC_INFO."""
    path = home / ".kube" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\ninfo = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "def grant(**status):\n"
        "    print(json.dumps({'kind': 'ExecCredential', 'apiVersion': info['apiVersion'], 'status': status}))\n"
        f"{script}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def executing(**more: object) -> dict[str, object]:
    return {"exec": {"apiVersion": V1, "command": "./plugin", "interactiveMode": "Never", **more}}


@pytest.mark.parametrize("version", [V1, V1BETA1])
def test_a_plugin_gives_a_token(home, version):
    plugin(home, "grant(token='-'.join([os.environ['WHO'], *sys.argv[1:], info['apiVersion'].rpartition('/')[2]]))")
    user = executing(apiVersion=version, args=["a", "b"], env=[{"name": "WHO", "value": "me"}])
    assert credentials_of(home, user).authorization == f"Bearer me-a-b-{version.rpartition('/')[2]}"


def test_a_plugin_gives_a_client_certificate(home):
    plugin(home, "grant(clientCertificateData='cert', clientKeyData='key', token=None, expirationTimestamp=None)")
    assert credentials_of(home, executing()) == Credentials("", b"cert", b"key")


def test_a_plugins_token_goes_with_the_users_certificate(home):
    plugin(home, "grant(token='t')")
    user = {**executing(), "client-certificate-data": text(b"cert"), "client-key-data": text(b"key")}
    assert credentials_of(home, user) == Credentials("Bearer t", b"cert", b"key")


def test_a_static_token_silences_the_plugin(home):
    plugin(home, "sys.exit(1)")
    assert credentials_of(home, {**executing(), "token": "t"}).authorization == "Bearer t"


def test_a_plugin_is_found_in_the_path(home):
    path = plugin(home, "grant(token='t')", "my-plugin")
    found = credentials_of(home, executing(command="my-plugin"), PATH=str(path.parent))
    assert found.authorization == "Bearer t"


def test_a_plugin_is_told_of_the_cluster_if_it_wants_to_be(home):
    plugin(home, "grant(token=json.dumps(info['spec']))")
    path = write(
        home / ".kube/config",
        cluster={
            "certificate-authority-data": text(CA),
            "tls-server-name": "other",
            "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "a", "n": 1}}],
        },
        user=executing(provideClusterInfo=True),
    )
    told = json.loads(loaded(home).credentials().authorization.removeprefix("Bearer "))
    assert told == {
        "interactive": False,
        "cluster": {
            "server": "https://api.example:6443",
            "tls-server-name": "other",
            "certificate-authority-data": text(CA),
            "config": {"audience": "a", "n": 1},
        },
    }
    write(path, user=executing())
    assert json.loads(loaded(home).credentials().authorization.removeprefix("Bearer ")) == {"interactive": False}


@pytest.mark.parametrize(
    ("script", "more", "words"),
    [
        ("sys.exit(3)", {}, "failed with exit code 3"),
        ("print('secret')", {}, "wrote no ExecCredential"),
        ("print('{}')", {}, "wrote no ExecCredential"),
        ("grant()", {}, "gave neither a token nor a client certificate"),
        ("grant(clientCertificateData='c')", {}, "gave one of client certificate and key without the other"),
        (
            f"info['apiVersion'] = '{V1BETA1}'; grant(token='t')",
            {},
            f"wrote {V1BETA1} ExecCredential, and not the {V1} ExecCredential asked for",
        ),
        (
            "",
            {"apiVersion": "client.authentication.k8s.io/v1alpha1"},
            f"has apiVersion 'client.authentication.k8s.io/v1alpha1'; write {V1} or {V1BETA1}, whichever it speaks",
        ),
        (
            "",
            {"interactiveMode": "Always"},
            "wants to ask a person (interactiveMode: Always), and stdin is no terminal",
        ),
    ],
)
def test_a_plugin_that_fails(home, script, more, words):
    plugin(home, script)
    path = write(home / ".kube/config", user=executing(**more))
    assert refusal(home) == f"kubeconfig {path}: the exec plugin './plugin' of user 'c' {words}"


def test_a_missing_plugin_tells_how_to_install_it(home):
    path = write(
        home / ".kube/config", user=executing(command="no-such-plugin", installHint="Get it from example.com\n")
    )
    assert refusal(home) == (
        f"kubeconfig {path}: the exec plugin 'no-such-plugin' of user 'c' cannot be run: No such file or directory\n\n"
        "Get it from example.com"
    )


# ---- in a pod ----


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("one\n")
    (folder / "ca.crt").write_bytes(CA)
    (folder / "namespace").write_text("shop\n")
    return folder


POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


def test_the_pods_service_account(pod):
    access = load(Overrides(), POD, service_account=pod)
    assert (access.server, access.namespace, access.authorities) == ("https://10.0.0.1:6443", "shop", CA)
    assert access.credentials().authorization == "Bearer one"
    (pod / "token").write_text("two\n")
    assert access.credentials().authorization == "Bearer two", "kubelet renews it"
    assert load(Overrides(namespace="x"), POD, service_account=pod).namespace == "x"
    ipv6 = load(Overrides(), {"KUBERNETES_SERVICE_HOST": "fd00::1"}, service_account=pod)
    assert ipv6.server == "https://[fd00::1]:443"


def test_a_kubeconfig_beats_the_pod(pod, home):
    write(home / ".kube/config", server="https://mine")
    assert load(Overrides(), {**POD, "HOME": str(home)}, service_account=pod).server == "https://mine"


def test_a_flag_is_not_answered_with_the_pod(pod):
    with pytest.raises(KubeconfigError, match="context 'c' does not exist"):
        load(Overrides(context="c"), POD, service_account=pod)


def test_a_pod_without_its_authority(pod):
    (pod / "ca.crt").unlink()
    with pytest.raises(KubeconfigError, match=r"the pod's service account: cannot read .*/ca.crt: No such file"):
        load(Overrides(), POD, service_account=pod)


# ---- proxies ----


@pytest.mark.parametrize(
    ("server", "no_proxy", "is_proxied"),
    [
        ("https://api.example", "", True),
        ("https://api.example", "api.example", False),
        ("https://api.example", "example", False),
        ("https://api.example", ".example", False),
        ("https://api.example", "*.example", False),
        ("https://example", ".example", True),
        ("https://myexample", "example", True),
        ("https://api.example:6443", "api.example:443", True),
        ("https://api.example:6443", "api.example:6443", False),
        ("https://api.example", "api.example:443", False),
        ("https://api.example", "x, API.example ,y", False),
        ("https://api.example", "*", False),
        ("https://10.1.2.3:6443", "10.0.0.0/8", False),
        ("https://10.1.2.3:6443", "nonsense/8,11.0.0.0/8", True),
        ("https://10.1.2.3:6443", "10.1.2.3", False),
        ("https://[fd00::1]:6443", "fd00::1", False),
        ("https://[fd00::1]:6443", "fd00::/8", False),
        ("https://127.0.0.1:6443", "", False),
        ("https://localhost:6443", "", False),
        ("https://[::1]", "", False),
    ],
)
def test_no_proxy(server, no_proxy, is_proxied):
    environ = {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": no_proxy}
    assert proxy_for(server, environ) == ("http://proxy.example:3128" if is_proxied else "")


def test_the_proxys_spellings(home):
    assert proxy_for("https://a", {}) == ""
    assert proxy_for("https://a", {"https_proxy": "http://p"}) == "http://p"
    assert proxy_for("http://a", {"HTTPS_PROXY": "http://p", "http_proxy": "http://q"}) == "http://q"
    write(home / ".kube/config")
    assert loaded(home, HTTPS_PROXY="http://p").proxy == "http://p"


# ---- what flags say of the server and the identity ----


def test_flags_in_the_place_of_the_files(home, tmp_path, monkeypatch):
    (tmp_path / "ca.pem").write_bytes(b"authority")
    (tmp_path / "cert.pem").write_bytes(b"certificate")
    (tmp_path / "key.pem").write_bytes(b"key")
    monkeypatch.chdir(tmp_path)
    write(
        home / ".kube/config",
        user={"token": "old", "tokenFile": "gone"},
        cluster={"certificate-authority-data": text(CA)},
    )
    access = loaded(
        home,
        Overrides(
            server="https://other:1/",
            token="given",
            certificate_authority="ca.pem",
            client_certificate="cert.pem",
            client_key="key.pem",
            tls_server_name="name",
            insecure_skip_tls_verify=True,
            as_user="jane",
            as_uid="u-1",
        ),
    )
    assert (access.server, access.authorities, access.server_name) == ("https://other:1", b"authority", "name")
    assert access.insecure
    granted = access.credentials()
    assert (granted.authorization, granted.certificate, granted.key) == ("Bearer given", b"certificate", b"key")
    assert access.impersonation == (("Impersonate-User", "jane"), ("Impersonate-Uid", "u-1"))


def test_a_server_by_flags_alone(tmp_path):
    access = load(Overrides(server="https://alone:6443", token="t"), {"HOME": str(tmp_path)})
    assert (access.server, access.namespace) == ("https://alone:6443", "default")
    assert access.credentials().authorization == "Bearer t"


def test_a_uid_needs_a_user(home):
    write(home / ".kube/config")
    assert refusal(home, Overrides(as_uid="u")) == "--as-uid needs --as: a uid cannot be impersonated without a user"


def test_a_token_by_flag_is_in_no_repr():
    assert "s3cret" not in repr(Overrides(token="s3cret"))


# ---- what is no plain file ----


def test_a_folder_is_no_kubeconfig(home, tmp_path):
    words = f"kubeconfig {tmp_path}: Is a directory"
    assert refusal(home, Overrides(kubeconfig=str(tmp_path))) == words
    with pytest.raises(KubeconfigError, match="Is a directory"):
        loaded(home, KUBECONFIG=str(tmp_path))


@pytest.mark.parametrize("is_named", [True, False])
def test_a_kubeconfig_may_come_from_a_pipe(home, is_named):
    """As `--kubeconfig <(a-program)`."""
    reader, writer = os.pipe()
    os.write(writer, write(home / "config").read_bytes())
    os.close(writer)
    try:
        name = f"/dev/fd/{reader}"
        access = loaded(home, Overrides(kubeconfig=name)) if is_named else loaded(home, KUBECONFIG=name)
    finally:
        os.close(reader)
    assert access.server == "https://api.example:6443"
