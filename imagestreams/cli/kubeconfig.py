"""Which API server to speak to, and as whom: kubeconfig files, exec plugins and the pod's service account, by kubectl's
rules.

Order: `--kubeconfig`, else the files of `$KUBECONFIG` (merged, the first that has an entry wins), else
`~/.kube/config`; where there is nothing of these, the service account of the pod that we run in.
https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/

Written for a command's start: no asyncio, and nothing is imported that the chosen user does not need. Credentials are
never part of a repr or a message.
"""

from __future__ import annotations

import binascii
import json
import os
import re
import sys
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_EXEC_GROUP: Final = "client.authentication.k8s.io"
_EXEC_VERSIONS: Final = (f"{_EXEC_GROUP}/v1", f"{_EXEC_GROUP}/v1beta1")
_MAX_FILE: Final = 4 << 20  # bytes of any file or plugin's answer that we read


class KubeconfigError(Exception):
    """No usable server or credentials; the text names the file and the context and says what to do."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags say; empty means "as the kubeconfig has it"."""

    kubeconfig: str = ""
    context: str = ""
    cluster: str = ""
    user: str = ""
    namespace: str = ""
    as_user: str = ""
    as_groups: tuple[str, ...] = ()
    as_uid: str = ""
    server: str = ""
    token: str = field(default="", repr=False)
    certificate_authority: str = ""
    client_certificate: str = ""
    client_key: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves who we are: an Authorization header's value, and/or a client certificate with its key (PEM)."""

    authorization: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """A server, and how to be somebody there.

    Attributes:
        server: base URL, http or https, without a trailing slash; may have a path.
        namespace: the one that commands act in if none is named.
        origin: the context and its file, for messages.
        authorities: PEM of the CAs to trust; empty means the system's.
        server_name: expected in the server's certificate, instead of the host of the URL.
        proxy: URL of the proxy to go through, or empty.
        impersonation: headers that ask to act as somebody else.
        credentials: reads files or runs the plugin anew each time that it is called; raises KubeconfigError.
    """

    server: str
    namespace: str
    origin: str
    credentials: Callable[[], Credentials] = field(repr=False)
    authorities: bytes = b""
    insecure: bool = False
    server_name: str = ""
    proxy: str = field(default="", repr=False)  # its URL may hold a password
    impersonation: tuple[tuple[str, str], ...] = ()


# ---- the file's shape: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/ ----


class _Wire(msgspec.Struct, frozen=True, rename="kebab"):
    """Kubeconfig's names are kebab-case, save for some. Values may be credentials, so none is shown."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _Cluster(_Wire, frozen=True):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""


class _Variable(_Wire, frozen=True):
    name: str
    value: str = ""


class _Exec(_Wire, frozen=True):
    command: str = ""
    args: list[str] = msgspec.field(default_factory=list)
    env: list[_Variable] = msgspec.field(default_factory=list)
    api_version: str = msgspec.field(default="", name="apiVersion")
    install_hint: str = msgspec.field(default="", name="installHint")
    provide_cluster_info: bool = msgspec.field(default=False, name="provideClusterInfo")
    interactive_mode: str = msgspec.field(default="IfAvailable", name="interactiveMode")


class _Provider(_Wire, frozen=True):
    name: str = ""
    config: dict[str, str] = msgspec.field(default_factory=dict)


class _User(_Wire, frozen=True):
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    exec: _Exec | None = None
    auth_provider: _Provider | None = None
    as_: str = msgspec.field(default="", name="as")
    as_uid: str = ""
    as_groups: list[str] = msgspec.field(default_factory=list)
    as_user_extra: dict[str, list[str]] = msgspec.field(default_factory=dict)


class _Context(_Wire, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(_Wire, frozen=True):
    name: str
    cluster: _Cluster = _Cluster()


class _NamedUser(_Wire, frozen=True):
    name: str
    user: _User = _User()


class _NamedContext(_Wire, frozen=True):
    name: str
    context: _Context = _Context()


class _File(_Wire, frozen=True):
    current_context: str = ""
    clusters: list[_NamedCluster] = msgspec.field(default_factory=list)
    users: list[_NamedUser] = msgspec.field(default_factory=list)
    contexts: list[_NamedContext] = msgspec.field(default_factory=list)


class _TextLoader(yaml.CSafeLoader):
    """Leaves every scalar a text but null, so that a token of digits or a context named 2024-01-01 stays what it is."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own attribute
        first: [("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"))] for first in ("~", "n", "N", "")
    }


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    """A cluster, user or context, and the file that has it: relative paths in it start at that file's folder."""

    value: T
    name: str
    file: Path

    def read(self, text: str, path: str, what: str) -> bytes:
        """What base64 `text` in the file holds or, without it, the file at `path`; empty where neither is given."""
        if text:
            try:
                return binascii.a2b_base64("".join(text.split()), strict_mode=True)
            except (binascii.Error, ValueError) as error:
                raise KubeconfigError(f"kubeconfig {self.file}: {what}-data of {self.name!r} is no base64") from error
        return self.read_file(path, what) if path else b""

    def read_file(self, path: str, what: str) -> bytes:
        """A file that the kubeconfig names."""
        found = self.file.parent / path
        try:
            return _read(found)
        except OSError as error:
            words = f"kubeconfig {self.file}: cannot read the {what} of {self.name!r}, {found}: {error.strerror}"
            raise KubeconfigError(words) from error


@dataclass(frozen=True, slots=True)
class _Merged:
    """All files as one."""

    files: tuple[Path, ...]
    current_context: str
    clusters: Mapping[str, _Entry[_Cluster]]
    users: Mapping[str, _Entry[_User]]
    contexts: Mapping[str, _Entry[_Context]]

    @property
    def is_empty(self) -> bool:
        return not (self.clusters or self.users or self.contexts or self.current_context)

    @property
    def origin(self) -> str:
        return ", ".join(map(str, self.files))


def load(overrides: Overrides, environ: Mapping[str, str], *, service_account: Path = SERVICE_ACCOUNT) -> Access:
    """Find the server and the identity that kubectl would use with the same flags and environment.

    Raises:
        KubeconfigError: a file is missing or malformed, what it names does not exist, or there is no cluster at all.
    """
    merged = _merge(_files(overrides, environ))
    chosen = overrides.context or overrides.cluster or overrides.user or overrides.server
    if merged.is_empty and not chosen and not overrides.kubeconfig:
        return _in_cluster(overrides, environ, service_account)
    context = _context(merged, overrides)
    cluster_name, user_name = overrides.cluster or context.value.cluster, overrides.user or context.value.user
    if cluster_name or not overrides.server:
        cluster = _named(merged.clusters, cluster_name, "cluster", merged)
    else:
        cluster = _Entry(_Cluster(), "", context.file)
    user = _named(merged.users, user_name, "user", merged) if user_name else _Entry(_User(), user_name, context.file)
    cluster, user = _given(cluster, user, overrides)
    server = cluster.value.server.rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise KubeconfigError(
            f"kubeconfig {cluster.file}: cluster {cluster.name!r} has no server that starts with https:// or http://"
        )
    return Access(
        server=server,
        namespace=overrides.namespace or context.value.namespace or "default",
        origin=f"context {context.name!r} of {context.file}",
        # As kubectl does: whoever listens in on plain http shall not learn a credential.
        credentials=(lambda: _credentials(user, cluster, environ)) if server.startswith("https://") else Credentials,
        authorities=cluster.read(
            cluster.value.certificate_authority_data, cluster.value.certificate_authority, "certificate-authority"
        ),
        insecure=cluster.value.insecure_skip_tls_verify,
        server_name=cluster.value.tls_server_name,
        proxy=cluster.value.proxy_url or proxy_for(server, environ),
        impersonation=_impersonation(overrides, user.value),
    )


def names_in(section: str, overrides: Overrides, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The names that the files have under "contexts", "clusters" or "users"; raises KubeconfigError."""
    merged = _merge(_files(overrides, environ))
    return tuple({"contexts": merged.contexts, "clusters": merged.clusters, "users": merged.users}[section])


def _files(overrides: Overrides, environ: Mapping[str, str]) -> tuple[Path, ...]:
    if overrides.kubeconfig:
        path = Path(overrides.kubeconfig)
        if not path.exists():
            raise KubeconfigError(f"kubeconfig {path}: no such file")
        return (path,)
    listed = [Path(name) for name in environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    if not listed and "HOME" in environ:
        listed = [Path(environ["HOME"]) / ".kube" / "config"]
    return tuple(path for path in listed if path.exists())


def _merge(paths: tuple[Path, ...]) -> _Merged:
    """The first file that has an entry, or a current context, wins."""
    current = ""
    clusters: dict[str, _Entry[_Cluster]] = {}
    users: dict[str, _Entry[_User]] = {}
    contexts: dict[str, _Entry[_Context]] = {}
    for path in paths:
        content = _decode(path)
        current = current or content.current_context
        for cluster in content.clusters:
            clusters.setdefault(cluster.name, _Entry(cluster.cluster, cluster.name, path))
        for user in content.users:
            users.setdefault(user.name, _Entry(user.user, user.name, path))
        for context in content.contexts:
            contexts.setdefault(context.name, _Entry(context.context, context.name, path))
    return _Merged(paths, current, clusters, users, contexts)


def _decode(path: Path) -> _File:
    try:
        content = yaml.load(_read(path), _TextLoader)  # noqa: S506  # a safe loader, less its guesses
        return msgspec.convert(_without_nulls(content or {}), _File, strict=False)
    except OSError as error:
        raise KubeconfigError(f"kubeconfig {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        # The error's own text may quote the line, and the line may hold a token.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise KubeconfigError(f"kubeconfig {path}: no valid YAML{place}") from error
    except msgspec.ValidationError as error:
        raise KubeconfigError(f"kubeconfig {path}: {error}") from error


def _without_nulls(value: object) -> object:
    """Go's clients write null for what is not set."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise KubeconfigError(f"{path} is larger than {_MAX_FILE >> 20} MiB: no kubeconfig, certificate or token")
    return content


def _context(merged: _Merged, overrides: Overrides) -> _Entry[_Context]:
    name = overrides.context or merged.current_context
    if name:
        return _named(merged.contexts, name, "context", merged)
    if overrides.cluster or overrides.server:
        return _Entry(_Context(), "", merged.files[0] if merged.files else Path("the flags"))
    raise KubeconfigError(
        f"kubeconfig {merged.origin or overrides.kubeconfig}: no context is current; "
        f"name one with --context{_there_are(merged.contexts)}"
    )


def _given(
    cluster: _Entry[_Cluster], user: _Entry[_User], overrides: Overrides
) -> tuple[_Entry[_Cluster], _Entry[_User]]:
    """The entries with what flags say in the place of what the files say. A file that a flag names is looked for in the
    working directory.
    """
    place, proof = cluster.value, user.value
    if overrides.server:
        place = replace(place, server=overrides.server)
    if overrides.certificate_authority:
        path = str(Path(overrides.certificate_authority).absolute())
        place = replace(place, certificate_authority=path, certificate_authority_data="")
    if overrides.tls_server_name:
        place = replace(place, tls_server_name=overrides.tls_server_name)
    if overrides.insecure_skip_tls_verify:
        place = replace(place, insecure_skip_tls_verify=True)
    if overrides.token:
        proof = replace(proof, token=overrides.token, token_file="")
    if overrides.client_certificate:
        path = str(Path(overrides.client_certificate).absolute())
        proof = replace(proof, client_certificate=path, client_certificate_data="")
    if overrides.client_key:
        proof = replace(proof, client_key=str(Path(overrides.client_key).absolute()), client_key_data="")
    return _Entry(place, cluster.name, cluster.file), _Entry(proof, user.name, user.file)


def _named(entries: Mapping[str, _Entry[T]], name: str, what: str, merged: _Merged) -> _Entry[T]:
    if name in entries:
        return entries[name]
    place = f"kubeconfig {merged.origin}" if merged.files else "kubeconfig: there is no file"
    raise KubeconfigError(f"{place}: {what} {name!r} does not exist{_there_are(entries)}")


def _there_are(names: Iterable[str]) -> str:
    known = ", ".join(sorted(names))
    return f" (there are: {known})" if known else ""


def _impersonation(overrides: Overrides, user: _User) -> tuple[tuple[str, str], ...]:
    """Flags replace the user's own wish to be somebody else, as a whole."""
    if overrides.as_user or overrides.as_groups or overrides.as_uid:
        if not overrides.as_user:
            flag, what = ("--as-group", "groups") if overrides.as_groups else ("--as-uid", "a uid")
            raise KubeconfigError(f"{flag} needs --as: {what} cannot be impersonated without a user")
        wish = _User(as_=overrides.as_user, as_groups=list(overrides.as_groups), as_uid=overrides.as_uid)
    else:
        wish = user
    headers = [("Impersonate-User", wish.as_), ("Impersonate-Uid", wish.as_uid)]
    headers += [("Impersonate-Group", group) for group in wish.as_groups]
    headers += [
        (f"Impersonate-Extra-{_escaped(key)}", value) for key, values in wish.as_user_extra.items() for value in values
    ]
    if any(not value.isprintable() for _, value in headers):
        raise KubeconfigError("a user, group or extra to impersonate holds control characters")
    return tuple((name, value) for name, value in headers if value)


def _escaped(key: str) -> str:
    """A header's name cannot hold every character of a key: the others are percent-encoded, as the server expects."""
    return re.sub(rb"[^0-9A-Za-z!#$&'*+.^_`|~-]", lambda found: b"%%%02X" % found[0][0], key.encode()).decode()


def _in_cluster(overrides: Overrides, environ: Mapping[str, str], folder: Path) -> Access:
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = folder / "token"
    if not host or not token.is_file():
        raise KubeconfigError(
            "there is no cluster to talk to: $KUBECONFIG names no file that exists, there is no ~/.kube/config, and "
            "this is no pod with a service account; name a file with --kubeconfig"
        )
    origin = f"the pod's service account ({folder})"

    def credentials() -> Credentials:
        return Credentials(authorization=f"Bearer {_pod_file(token).decode().strip()}")

    namespace = folder / "namespace"
    own = _pod_file(namespace).decode().strip() if namespace.is_file() else ""
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=overrides.namespace or environ.get("POD_NAMESPACE") or own or "default",
        origin=origin,
        credentials=credentials,
        authorities=_pod_file(folder / "ca.crt"),
        impersonation=_impersonation(overrides, _User()),
    )


def _pod_file(path: Path) -> bytes:
    try:
        return _read(path)
    except OSError as error:
        raise KubeconfigError(f"the pod's service account: cannot read {path}: {error.strerror}") from error


# ---- identities ----


def _credentials(user: _Entry[_User], cluster: _Entry[_Cluster], environ: Mapping[str, str]) -> Credentials:
    """In client-go's order: a static credential silences the plugin; certificates go with either."""
    wish = user.value
    certificate = user.read(wish.client_certificate_data, wish.client_certificate, "client-certificate")
    key = user.read(wish.client_key_data, wish.client_key, "client-key")
    if bool(certificate) != bool(key):
        raise KubeconfigError(
            f"kubeconfig {user.file}: user {user.name!r} needs both client-certificate and client-key, and has one"
        )
    granted = Credentials(_static_authorization(user), certificate, key)
    if wish.exec is not None and not granted.authorization:
        answer = _run_plugin(wish.exec, user, cluster, environ)
        granted = answer if answer.certificate else Credentials(answer.authorization, certificate, key)
    if not (granted.authorization.isascii() and granted.authorization.isprintable()):
        raise KubeconfigError(
            f"kubeconfig {user.file}: the token of user {user.name!r} holds characters that no token has"
        )
    return granted


def _static_authorization(user: _Entry[_User]) -> str:
    wish = user.value
    if wish.token_file:
        token = user.read_file(wish.token_file, "tokenFile").decode(errors="replace").strip()
        return f"Bearer {token}"
    if wish.token:
        return f"Bearer {wish.token}"
    if wish.username:
        pair = f"{wish.username}:{wish.password}".encode()
        return f"Basic {binascii.b2a_base64(pair, newline=False).decode()}"
    provider = wish.auth_provider
    if provider is None:
        return ""
    token = provider.config.get("id-token", "")
    if provider.name == "oidc" and token:
        # kubectl renews it and writes it back; we only use what is there.
        return f"Bearer {token}"
    raise KubeconfigError(
        f"kubeconfig {user.file}: user {user.name!r} has the auth provider {provider.name!r}, which is not supported; "
        "use an exec plugin"
    )


class _Status(_Wire, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""


class _ExecCredential(_Wire, frozen=True, rename="camel"):
    """https://kubernetes.io/docs/reference/config-api/client-authentication.v1/."""

    api_version: str
    kind: str
    status: _Status | None = None


def _run_plugin(wish: _Exec, user: _Entry[_User], cluster: _Entry[_Cluster], environ: Mapping[str, str]) -> Credentials:
    """Run the user's credential plugin; what it writes to stderr reaches the person at the terminal."""
    import subprocess  # noqa: PLC0415  # most users need none

    place = f"kubeconfig {user.file}: the exec plugin {wish.command!r} of user {user.name!r}"
    if wish.api_version not in _EXEC_VERSIONS:
        raise KubeconfigError(
            f"{place} has apiVersion {wish.api_version!r}; write {' or '.join(_EXEC_VERSIONS)}, whichever it speaks"
        )
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if wish.interactive_mode == "Always" and not is_terminal:
        raise KubeconfigError(f"{place} wants to ask a person (interactiveMode: Always), and stdin is no terminal")
    is_interactive = is_terminal and wish.interactive_mode != "Never"
    # A path with a slash starts at the kubeconfig's folder; a bare name is searched in PATH.
    command = str(user.file.parent / wish.command) if "/" in wish.command else wish.command
    environment = {
        **environ,
        **{variable.name: variable.value for variable in wish.env},
        "KUBERNETES_EXEC_INFO": json.dumps(_exec_info(wish, cluster, is_interactive=is_interactive)),
    }
    try:
        done = subprocess.run(  # noqa: S603  # the command is the user's own configuration
            [command, *wish.args],
            env=environment,
            stdin=None if is_interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        hint = f"\n\n{wish.install_hint.strip()}" if wish.install_hint else ""
        raise KubeconfigError(f"{place} cannot be run: {error.strerror}{hint}") from error
    if done.returncode != 0:
        raise KubeconfigError(f"{place} failed with exit code {done.returncode}")
    return _plugin_answer(done.stdout, wish, place)


def _plugin_answer(output: bytes, wish: _Exec, place: str) -> Credentials:
    try:
        answer = msgspec.convert(_without_nulls(msgspec.json.decode(output[:_MAX_FILE])), _ExecCredential)
    except msgspec.DecodeError as error:
        # Not quoted: the output may hold the token.
        raise KubeconfigError(f"{place} wrote no ExecCredential") from error
    if answer.kind != "ExecCredential" or answer.api_version != wish.api_version:
        raise KubeconfigError(
            f"{place} wrote {answer.api_version} {answer.kind}, and not the {wish.api_version} ExecCredential asked for"
        )
    status = answer.status
    if status is None or not (status.token or status.client_certificate_data):
        raise KubeconfigError(f"{place} gave neither a token nor a client certificate")
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise KubeconfigError(f"{place} gave one of client certificate and key without the other")
    return Credentials(
        authorization=f"Bearer {status.token}" if status.token else "",
        certificate=status.client_certificate_data.encode(),
        key=status.client_key_data.encode(),
    )


def _exec_info(wish: _Exec, cluster: _Entry[_Cluster], *, is_interactive: bool) -> dict[str, object]:
    spec: dict[str, object] = {"interactive": is_interactive}
    if wish.provide_cluster_info:
        value = cluster.value
        authorities = cluster.read(
            value.certificate_authority_data, value.certificate_authority, "certificate-authority"
        )
        described = {
            "server": value.server,
            "tls-server-name": value.tls_server_name,
            "insecure-skip-tls-verify": value.insecure_skip_tls_verify,
            "certificate-authority-data": binascii.b2a_base64(authorities, newline=False).decode(),
            "proxy-url": value.proxy_url,
            "config": _exec_config(cluster),
        }
        spec["cluster"] = {name: item for name, item in described.items() if item}
    return {"apiVersion": wish.api_version, "kind": "ExecCredential", "spec": spec}


def _exec_config(cluster: _Entry[_Cluster]) -> object:
    """The cluster's extension for exec plugins, with the types that the file gives it; None where there is none."""
    content = yaml.load(_read(cluster.file), yaml.CSafeLoader)
    for entry in content.get("clusters") or ():
        if str(entry.get("name")) == cluster.name:
            for extension in (entry.get("cluster") or {}).get("extensions") or ():
                if extension.get("name") == f"{_EXEC_GROUP}/exec":
                    return extension.get("extension")
    return None


# ---- proxies ----


def proxy_for(server: str, environ: Mapping[str, str]) -> str:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY give for a server's URL, or "".

    As Go reads them: NO_PROXY lists hosts with their subdomains, ".example" for subdomains only, addresses, networks,
    each with an optional port, or "*"; loopback is never proxied.
    """
    parts = urlsplit(server)
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name) or ""
    host, port = (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)
    rules = (environ.get("NO_PROXY") or environ.get("no_proxy") or "").lower().split(",")
    if not proxy or _is_loopback(host) or any(_exempts(rule.strip(), host, port) for rule in rules):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _exempts(rule: str, host: str, port: int) -> bool:
    if rule in {"*", host}:
        return True
    if "/" in rule:
        try:
            return ip_address(host) in ip_network(rule, strict=False)
        except ValueError:
            return False  # a name is in no network, and Go skips what it cannot read
    name, colon, wanted_port = rule.rpartition(":")
    if not colon or not wanted_port.isdigit():
        name, wanted_port = rule, ""
    if not name or (wanted_port and int(wanted_port) != port):
        return False
    name = name.removeprefix("*").strip("[]")
    return host == name or host.endswith(f".{name.removeprefix('.')}")
