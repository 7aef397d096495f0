"""Where the API server is and who we are: from the pod's service account, or from a kubeconfig.

kubernetes_asyncio reads the configuration (context, token, client certificate, exec plugin, OIDC); this module keeps
it fresh: tokens that expire are refreshed before they do, and after a 401 or an untrusted certificate everything is
read anew, so that rotated tokens, certificates and CAs need no restart.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote_plus

import aiohttp
import msgspec
import structlog
import yaml

from imagestreams.kube.lazy import configuration_loader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from imagestreams.kube.lazy import Loader

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_REFRESH_INTERVAL = 60.0  # seconds between two looks at what may expire
_RENEWAL_FLOOR = 10.0  # seconds between two full reloads: a 401 that stays must not run a plugin for each request
_PLUGIN_TIMEOUT = 60.0
_OPENID_LIMIT = 1 << 20


class ConfigurationError(Exception):
    """No usable configuration of a cluster. The message says what is missing and holds no credential."""


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """How the API server is reached. `tls` is None for plain http; `server_name` overrides the name to verify;
    `proxy` may hold a password.
    """

    url: str
    tls: ssl.SSLContext | None
    server_name: str | None
    proxy: str | None
    fingerprint: bytes

    def __repr__(self) -> str:
        return f"Endpoint({self.url})"


class Source(Protocol):
    """A place that a configuration comes from."""

    async def load(self) -> Any:
        """A new kubernetes_asyncio Configuration; its `refresh_api_key_hook` refreshes what can expire."""


class Access:
    """The present endpoint and credential.

    Args:
        source: where both are read.
        clock: monotonic seconds.
    """

    def __init__(self, source: Source, *, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._renewing = asyncio.Lock()
        self._next_renewal = float("-inf")
        self._configuration: Any = None
        self.generation = 0

    async def load(self) -> None:
        """Read everything.

        Raises:
            ConfigurationError: if that gives no usable configuration; what was there before stays.
        """
        configuration = await self._source.load()
        present = self.endpoint if self.generation else None
        self.endpoint: Endpoint = _endpoint(configuration, present)
        self._configuration = configuration
        self.generation += 1

    async def authorization(self) -> str:
        """The Authorization header for a request now, or empty (anonymous, or a client certificate)."""
        try:
            value = await self._configuration.get_api_key_with_prefix("BearerToken")
        except _loading_errors() as error:
            # The present token may live for some minutes yet; when it does not, a 401 says so.
            log.warning("credentials not refreshed", error=_without_content(error))
            value = self._configuration.api_key.get("BearerToken")
        return str(value or "").strip()

    async def renew(self, seen: int) -> bool:
        """After a refusal of the credential or certificate of generation `seen`: is there anything newer to try?"""
        async with self._renewing:
            if self.generation != seen:
                return True
            if self._clock() < self._next_renewal:
                return False
            self._next_renewal = self._clock() + _RENEWAL_FLOOR
            try:
                await self.load()
            except ConfigurationError as error:
                log.warning("configuration not read again", error=str(error))
                return False
            return True


def source_of(
    kubeconfig: str | None, context: str | None, *, environ: Mapping[str, str], clock: Callable[[], float]
) -> Source:
    """The pod's service account if neither argument is given and we are in a pod; else the kubeconfig, by kubectl's
    rules for its path.
    """
    loader = configuration_loader()
    if kubeconfig is None and context is None and environ.get("KUBERNETES_SERVICE_HOST"):
        return InCluster(loader, environ)
    return Kubeconfig(loader, kubeconfig or environ.get("KUBECONFIG") or "~/.kube/config", context, clock=clock)


class InCluster:
    """The service account that is mounted into the pod. Its token file is read again every minute.

    Args:
        files: `token_filename` and `cert_filename`, where they are not at the usual place.
    """

    def __init__(self, loader: Loader, environ: Mapping[str, str], **files: str) -> None:
        self._loader = loader
        self._environ = environ
        self._files = files

    async def load(self) -> Any:
        configuration = self._loader.configuration()
        try:
            self._loader.in_cluster(client_configuration=configuration, environ=self._environ, **self._files)
        except _loading_errors() as error:
            raise ConfigurationError(f"the pod's service account is not usable: {_without_content(error)}") from None
        return configuration


class Kubeconfig:
    """A kubeconfig file, or several joined as in the variable KUBECONFIG, and a context in it (None: the current
    one).
    """

    def __init__(self, loader: Loader, paths: str, context: str | None, *, clock: Callable[[], float]) -> None:
        self._loader = loader
        self._paths = paths
        self._context = context
        self._clock = clock
        # The library's own class does not verify the issuer's certificate where no CA is named, and fails where one is
        # (36.1.0, seen 2026-11), so a refresh token would go to whoever answers.
        loader.kubeconfig.OpenIDRequestor = _OpenIdRefresh  # type: ignore[attr-defined]

    async def load(self) -> Any:
        if not any(map(_exists, self._paths.split(os.pathsep))):
            raise ConfigurationError(
                f"there is no kubeconfig at {self._paths}; name one, or run in a pod with a service account"
            )
        configuration = self._loader.configuration()
        try:
            async with asyncio.timeout(_PLUGIN_TIMEOUT):
                files = self._loader.kubeconfig.KubeConfigMerger(self._paths)
                # A refresh token that the issuer has replaced must be kept, or the user's next login fails.
                loader = self._loader.kubeconfig.KubeConfigLoader(
                    files.config,
                    active_context=self._context,
                    config_base_path=None,
                    config_persister=lambda _: files.save_changes(),
                )
                await loader.load_and_set(configuration)
        except _loading_errors() as error:
            raise ConfigurationError(f"kubeconfig {self._paths} is not usable: {_without_content(error)}") from None
        configuration.refresh_api_key_hook = self._refresher(loader, runs_plugin=_runs_plugin(files, loader))
        return configuration

    def _refresher(self, loader: Any, *, runs_plugin: bool) -> Callable[[Any], Any]:
        due = self._clock() + _REFRESH_INTERVAL

        async def refresh(configuration: Any) -> None:
            nonlocal due
            if self._clock() < due:
                return
            due = self._clock() + _REFRESH_INTERVAL  # before the wait: requests in between use the present token
            # A plugin's token without an expiry is good until a 401, and asking for it again could mean a log-in.
            if not runs_plugin or hasattr(loader, "exec_plugin_expiry"):
                async with asyncio.timeout(_PLUGIN_TIMEOUT):
                    await loader.load_and_set(configuration)

        return refresh


def _exists(path: str) -> bool:
    return bool(path) and Path(path).expanduser().is_file()


def _runs_plugin(files: Any, loader: Any) -> bool:
    user = files.config["users"].get_with_name(loader.current_context["context"].get("user"), safe=True)
    return user is not None and "exec" in (user.safe_get("user") or {})


def _loading_errors() -> tuple[type[Exception], ...]:
    """What the library's loader raises for input that it does not expect, besides its own exception."""
    return (
        configuration_loader().error,
        aiohttp.ClientError,
        msgspec.MsgspecError,
        AssertionError,
        AttributeError,
        LookupError,
        OSError,
        TimeoutError,
        TypeError,
        ValueError,
        yaml.YAMLError,
    )


def _without_content(error: Exception) -> str:
    """The words of a loading error. The library quotes whole entries of a kubeconfig, tokens included, always as
    `{...}`; YAML quotes lines.
    """
    if isinstance(error, yaml.YAMLError):
        return "it is not YAML"
    if isinstance(error, TimeoutError):
        return f"no credential within {_PLUGIN_TIMEOUT:.0f} s"
    words = str(error).partition("{")[0].strip()
    return f"{type(error).__name__}: {words[:500]}" if words else type(error).__name__


def _endpoint(configuration: Any, present: Endpoint | None) -> Endpoint:
    """The endpoint of a configuration; `present` itself if nothing has changed, so that its connections are used on."""
    url = str(configuration.host).rstrip("/")
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    plain = (url, configuration.verify_ssl, configuration.tls_server_name, configuration.proxy)
    try:
        contents = [Path(file).read_bytes() if file else b"" for file in files]
        fingerprint = hashlib.sha256(repr((plain, contents)).encode()).digest()
        if present is not None and present.fingerprint == fingerprint:
            return present
        tls = _tls(*files, verify=bool(configuration.verify_ssl)) if url.startswith("https:") else None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(f"the certificates for {url} are not usable: {error}") from error
    return Endpoint(url, tls, configuration.tls_server_name or None, configuration.proxy or None, fingerprint)


def _tls(ca_file: str | None, cert_file: str | None, key_file: str | None, *, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    # Python 3.13 makes strict X.509 the default, and clusters' own CAs often lack the key identifiers that it wants.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file:
        context.load_cert_chain(cert_file, key_file)
    return context


class _OpenIdRefresh:
    """Trades a refresh token for an ID token. Called by the library's loader, so its argument and method names are
    the library's.
    """

    def __init__(self, client_id: str, client_secret: str, issuer_url: str, ssl_ca_cert: str | None = None) -> None:
        self._client = base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()).decode()
        self._issuer = issuer_url.rstrip("/")
        self._ca_file = ssl_ca_cert

    async def refresh_token(self, refresh_token: str) -> dict[str, str]:
        tls = ssl.create_default_context(cafile=self._ca_file)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=tls)) as session:
            known = await _ask(session, "GET", f"{self._issuer}/.well-known/openid-configuration", _Issuer)
            form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
            headers = {"Authorization": f"Basic {self._client}"}
            granted = await _ask(session, "POST", known.token_endpoint, _Granted, headers=headers, data=form)
        # An issuer that does not rotate refresh tokens need not send one back.
        return {"id_token": granted.id_token, "refresh_token": granted.refresh_token or refresh_token}


class _Issuer(msgspec.Struct, frozen=True):
    token_endpoint: str


class _Granted(msgspec.Struct, frozen=True):
    id_token: str
    refresh_token: str = ""


async def _ask(session: aiohttp.ClientSession, method: str, url: str, kind: type[_T], **request: Any) -> _T:
    if not url.startswith("https://"):
        raise ValueError("oidc: the issuer and its token endpoint must be https")
    async with session.request(method, url, allow_redirects=False, **request) as response:
        if response.status != 200:
            raise ValueError(f"oidc: {method} {url} answered {response.status}")
        return msgspec.json.decode(await read_at_most(response, _OPENID_LIMIT), type=kind)


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body.

    Raises:
        ValueError: if it has more than `limit` bytes.
    """
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > limit:
            raise ValueError(f"the answer has more than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
