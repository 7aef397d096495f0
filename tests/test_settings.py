"""The settings' rules: three spellings of one table, who beats whom, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import timedelta
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams import settings as module
from imagestreams.core.duration import parse_duration, show_duration
from imagestreams.core.keychain import InstallWide
from imagestreams.core.lookup import ImportMode
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import DIRECT, HostRule, Mirror, MirrorRule, Policy, Rate
from imagestreams.settings import (
    TABLE,
    HostPort,
    InvalidSettings,
    Settings,
    load,
    parse_size,
    show,
    show_size,
)


def no_file(name: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", name)


def files(**contents: str):
    """A file system of the given names, dots written as "_"."""
    known = {name.replace("_", "."): text for name, text in contents.items()}

    def read(name: str) -> str:
        return known[name] if name in known else no_file(name)

    return read


def refused(flags=None, environ=None, read_file=no_file) -> str:
    with pytest.raises(InvalidSettings) as caught:
        load(flags or {}, environ or {}, read_file)
    return str(caught.value)


# ---- the table ----


def test_nothing_given_is_the_defaults():
    assert load({}, {}, no_file) == Settings()


def test_a_rows_spellings_follow_from_its_name():
    row = next(row for row in TABLE if row.name == "min_interval")
    assert (row.flag, row.variable, row.key) == ("--min-interval", "IMAGESTREAMS_MIN_INTERVAL", "minInterval")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_row_has_words_and_a_default_that_its_own_kind_reads(row):
    assert row.help.endswith(".")
    assert row.section
    shown = show(Settings())[row.name]
    texts = tuple(text for text in shown.split(",") if text) if row.kind.many else (shown,)
    if shown:
        assert row.kind.parse(texts) == getattr(Settings(), row.name)
    assert module._SERVICE_LINK.fullmatch(row.variable) is None, "Kubernetes may set a variable of this name itself"


EVERY: dict[str, tuple[str, object]] = {
    "kubeconfig": ("/etc/kube", "/etc/kube"),
    "context": ("prod", "prod"),
    "api_group": ("imagestreams.dev", "imagestreams.dev"),
    "observe": ("true", True),
    "drift": ("enforce", "enforce"),
    "manifest_managers": ("argocd-controller,my-tool", ("argocd-controller", "my-tool")),
    "excluded_namespaces": ("kube-system,istio-system", ("kube-system", "istio-system")),
    "interval": ("1h30m", timedelta(minutes=90)),
    "min_interval": ("2m", timedelta(minutes=2)),
    "refresh_floor": ("0", timedelta()),
    "retry_base": ("5s", timedelta(seconds=5)),
    "retry_cap": ("1h", timedelta(hours=1)),
    "settle": ("500ms", timedelta(milliseconds=500)),
    "import_mode": ("Legacy", "Legacy"),
    "legacy_platform": ("linux/arm/v7", "linux/arm/v7"),
    "history_limit": ("3", 3),
    "status_budget": ("512Ki", 524_288),
    "repository_tags": ("20000", 20_000),
    "flap_window": ("0", timedelta()),
    "import_ttl": ("1h", timedelta(hours=1)),
    "image_objects": ("true", True),
    "image_object_budget": ("7", 7),
    "image_object_grace": ("1h", timedelta(hours=1)),
    "lane_concurrency": ("2", 2),
    "max_lanes": ("16", 16),
    "connect_timeout": ("3s", timedelta(seconds=3)),
    "request_timeout": ("1m", timedelta(minutes=1)),
    "registry_endpoint": (
        "localhost:5001=http://kind-registry:5000,docker.io=https://[fd00::1]:5000",
        {"localhost:5001": "http://kind-registry:5000", "docker.io": "https://[fd00::1]:5000"},
    ),
    "insecure_registry": ("a:5000,b", ("a:5000", "b")),
    "internal_registry": ("c", ("c",)),
    "registry_ca": ("d.example=/ca.pem", {"d.example": "/ca.pem"}),
    "registry_proxy": (
        "e.example=https://u:p%40@proxy:3128,f=none",
        {"e.example": "https://u:p%40@proxy:3128", "f": "none"},
    ),
    "webhook_address": (":9443", HostPort("", 9443)),
    "webhooks_only": ("true", True),
    "webhook_configuration": ("mine", "mine"),
    "webhook_secret": ("keys", "keys"),
    "webhook_tls_secret": ("from-cert-manager", "from-cert-manager"),
    "webhook_service": ("hooks", "hooks"),
    "webhook_name": ("hooks.example,127.0.0.1,::1", ("hooks.example", "127.0.0.1", "::1")),
    "webhook_controller": ("system:serviceaccount:a:b", "system:serviceaccount:a:b"),
    "webhook_client_ca": ("/etc/ca.pem", "/etc/ca.pem"),
    "webhook_client_name": ("kube-apiserver", "kube-apiserver"),
    "http_proxy": ("http://proxy:3128", "http://proxy:3128"),
    "https_proxy": ("http://u:p@proxy:3129", "http://u:p@proxy:3129"),
    "no_proxy": ("*,.corp.example,10.0.0.0/8,[::1]:80", ("*", ".corp.example", "10.0.0.0/8", "[::1]:80")),
    "registry_rate": (
        "quay.io=5/s,docker.io=40/4s",
        {"quay.io": Rate(5, timedelta(seconds=1)), "docker.io": Rate(40, timedelta(seconds=4))},
    ),
    "registry_pulls": ("docker.io=5000/24h", {"docker.io": Rate(5000, timedelta(hours=24))}),
    "mirror": (
        "quay.io/acme=m.example/quay,quay.io/acme=n.example,*.corp.example=m.example",
        (("quay.io/acme", "m.example/quay"), ("quay.io/acme", "n.example"), ("*.corp.example", "m.example")),
    ),
    "registries_file": ("/etc/registries.yaml", "/etc/registries.yaml"),
    "registries_configmap": ("other", "other"),
    "local_registry_hosting": ("false", False),
    "mirror_sets": ("false", False),
    "pull_secrets": ("linked", "linked"),
    "install_secret": ("pull", "pull"),
    "install_secret_namespace": ("team-*,shop", ("team-*", "shop")),
    "install_secret_repository": ("quay.io/acme,reg:5000", ("quay.io/acme", "reg:5000")),
    "allowed_registry": ("*.example,quay.io/acme", ("*.example", "quay.io/acme")),
    "blocked_registry": ("evil.example:*", ("evil.example:*",)),
    "refused_network": ("10.0.0.0/8,fd00::/8", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
    "strict_addresses": ("true", True),
    "http_address": ("[::]:0", HostPort("::", 0)),
    "workers": ("4", 4),
    "shutdown_grace": ("1s", timedelta(seconds=1)),
    "log_level": ("debug", "debug"),
    "log_format": ("console", "console"),
    "lease_name": ("other", "other"),
    "lease_namespace": ("ops", "ops"),
    "lease_duration": ("30s", timedelta(seconds=30)),
    "identity": ("me", "me"),
}
TEXTS = {name: text for name, (text, _) in EVERY.items()}
CHANGED = Settings(**{name: value for name, (_, value) in EVERY.items()})


def test_the_examples_below_hold_every_setting():
    assert set(EVERY) == {row.name for row in TABLE}


def test_every_setting_can_be_a_flag():
    assert load(TEXTS, {}, no_file) == CHANGED


def test_every_setting_can_be_an_environment_variable():
    environ = {row.variable: TEXTS[row.name] for row in TABLE}
    assert load({}, environ, no_file) == CHANGED


def test_every_setting_can_be_a_key_of_the_file():
    text = "\n".join(f"{row.key}: '{TEXTS[row.name]}'" for row in TABLE)
    assert load({"config": "c.yaml"}, {}, files(c_yaml=text)) == CHANGED


def test_what_is_shown_reads_back():
    secrets = {row.name: TEXTS[row.name] for row in TABLE if row.kind.secret}
    assert load({**show(CHANGED), **secrets}, {}, no_file) == CHANGED
    assert load({name: text or None for name, text in show(Settings()).items()}, {}, no_file) == Settings()


def test_what_is_accepted_is_accepted_further_down():
    """The wiring hands these to other parts, which check for themselves; a refusal there would not name the setting."""
    hosts = {host: HostRule(endpoint=url) for host, url in CHANGED.registry_endpoint.items()}
    Policy(
        hosts,
        allowed=CHANGED.allowed_registry,
        blocked=CHANGED.blocked_registry,
        mirrors=tuple(MirrorRule(source, (Mirror(location),)) for source, location in CHANGED.mirror),
        http_proxy=CHANGED.http_proxy,
        https_proxy=CHANGED.https_proxy,
        no_proxy=CHANGED.no_proxy,
    )
    assert [HostRule(proxy=proxy).proxy for proxy in CHANGED.registry_proxy.values()][1] == DIRECT
    install_wide = InstallWide(CHANGED.install_secret_namespace, CHANGED.install_secret_repository)
    assert install_wide.serves_namespace("team-a")
    assert ImportMode(CHANGED.import_mode)
    assert Platform.parse(CHANGED.legacy_platform)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CHANGED.workers = 3
    with pytest.raises(TypeError):
        load({"registry_ca": "a=b"}, {}, no_file).registry_ca["x"] = "y"


# ---- who beats whom ----


@pytest.mark.parametrize(
    ("flags", "environ", "minutes"),
    [
        pytest.param({"interval": "2m"}, {"IMAGESTREAMS_INTERVAL": "3m"}, 2, id="a flag beats all"),
        pytest.param({"interval": None}, {"IMAGESTREAMS_INTERVAL": "3m"}, 3, id="the environment beats the file"),
        pytest.param({"interval": ()}, {}, 4, id="the file beats the default"),
    ],
)
def test_precedence(flags, environ, minutes):
    flags = {**flags, "config": "c.yaml"}
    assert load(flags, environ, files(c_yaml="interval: 4m")).interval == timedelta(minutes=minutes)


def test_a_list_is_replaced_as_a_whole():
    environ = {"IMAGESTREAMS_INSECURE_REGISTRY": "a,b"}
    assert load({"insecure_registry": ("c", "d,e")}, environ, no_file).insecure_registry == ("c", "d", "e")
    assert load({}, {"IMAGESTREAMS_EXCLUDED_NAMESPACES": ""}, no_file).excluded_namespaces == ()


def test_the_file_can_be_named_in_the_environment_and_a_flag_beats_it():
    read = files(a_yaml="workers: 1", b_yaml="workers: 2")
    assert load({}, {"IMAGESTREAMS_CONFIG": "a.yaml"}, read).workers == 1
    assert load({"config": "b.yaml"}, {"IMAGESTREAMS_CONFIG": "a.yaml"}, read).workers == 2


def test_lists_and_maps_have_their_natural_form_in_the_file():
    text = """
observe: true
workers: 4
insecureRegistry: [a:5000, b]
excludedNamespaces:
- kube-system
registryEndpoint:
  localhost:5001: http://kind-registry:5000/
registryCa: [d.example=/ca.pem]
registryProxy: {d.example: "http://u:a,b@proxy"}
mirror:
  quay.io/acme: [m.example/quay, n.example]
  ghcr.io: m.example/ghcr
noProxy: [a.example, .b.example]
"""
    found = load({"config": "c"}, {}, files(c=text))
    assert (found.observe, found.workers, found.insecure_registry) == (True, 4, ("a:5000", "b"))
    assert found.registry_endpoint == {"localhost:5001": "http://kind-registry:5000"}
    assert found.registry_ca == {"d.example": "/ca.pem"}
    assert found.registry_proxy == {"d.example": "http://u:a,b@proxy"}
    assert found.mirror == (
        ("quay.io/acme", "m.example/quay"),
        ("quay.io/acme", "n.example"),
        ("ghcr.io", "m.example/ghcr"),
    )
    assert found.no_proxy == ("a.example", ".b.example")


def test_only_null_is_no_value():
    text = "identity: node-1\nregistryProxy: {a: none}\nexcludedNamespaces: [nginx, nulls]\nleaseName: n\n"
    found = load({"config": "c"}, {}, files(c=text))
    assert (found.identity, found.registry_proxy, found.lease_name) == ("node-1", {"a": "none"}, "n")
    assert found.excluded_namespaces == ("nginx", "nulls")


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_file_says_nothing(text):
    assert load({"config": "c"}, {}, files(c=text)) == Settings()


def test_a_boolean_flag_may_be_a_boolean():
    assert load({"observe": True}, {}, no_file).observe is True


# ---- in a pod ----

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("flags", "environ", "namespace"),
    [
        pytest.param({}, POD, "shop", id="the pod's"),
        pytest.param({}, {}, "imagestreams-system", id="no pod"),
        pytest.param({"context": "c"}, POD, "imagestreams-system", id="another cluster's context"),
        pytest.param({"lease_namespace": "ops"}, POD, "ops", id="given"),
    ],
)
def test_the_leases_namespace(flags, environ, namespace):
    def read(name: str) -> str:
        assert name == module.POD_NAMESPACE_FILE
        return "shop\n"

    assert load(flags, environ, read).lease_namespace == namespace


def test_a_pod_without_a_token_uses_the_default_namespace():
    assert load({}, POD, no_file).lease_namespace == "imagestreams-system"


@pytest.mark.parametrize(
    "name",
    [
        "IMAGESTREAMS_SERVICE_HOST",
        "IMAGESTREAMS_SERVICE_PORT",
        "IMAGESTREAMS_SERVICE_PORT_METRICS",
        "IMAGESTREAMS_PORT",
        "IMAGESTREAMS_PORT_8080_TCP",
        "IMAGESTREAMS_PORT_8080_TCP_ADDR",
        "IMAGESTREAMS_METRICS_SERVICE_HOST",
        "IMAGESTREAMS_METRICS_PORT_8080_TCP_PROTO",
    ],
)
def test_service_links_are_no_settings(name):
    assert load({}, {name: "tcp://10.0.0.1:8080"}, no_file) == Settings()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("interval", "15", "is no duration; write a number with a unit, such as 15m, 90s, 1h30m or 200ms"),
        ("interval", "", "is no duration"),
        ("interval", "5s3m", "is no duration"),
        ("interval", "-5m", "is no duration"),
        ("interval", "0", "is too small; the least is 1s"),
        ("interval", "9999999h", "is too large; the most is 720h"),
        ("interval", "9" * 400 + "h", "is too long"),
        ("workers", "0", "is too small; the least is 1"),
        ("workers", "1000", "is too large; the most is 256"),
        ("workers", "many", "is no whole number; write one from 1 to 256"),
        ("status_budget", "1MB", "is no size; write bytes, or a whole number with Ki, Mi or Gi, such as 1Mi"),
        ("status_budget", "1", "is too small; the least is 64Ki"),
        ("status_budget", "2Mi", "is too large; the most is 1400Ki"),
        ("observe", "yes", "is neither true nor false"),
        ("drift", "ignore", "is not known; write respect or enforce"),
        ("api_group", "apps", "is not known; write image.openshift.io or imagestreams.dev"),
        ("legacy_platform", "amd64", "is no platform; write os/architecture"),
        ("excluded_namespaces", "Kube", 'has "Kube", which is no namespace; write lower-case letters'),
        ("lease_namespace", "", "is no namespace"),
        ("lease_name", "A", "is no name of an object"),
        ("http_address", "8080", "is no address to listen on; write HOST:PORT"),
        ("http_address", "::1:80", "has an IPv6 address without brackets; write [::]:8080"),
        ("http_address", "x:65536", "is no address to listen on"),
        ("insecure_registry", "https://a", 'has "https://a", which is no registry host'),
        ("insecure_registry", "a:65536", 'has "a:65536", which is no registry host'),
        ("insecure_registry", "Quay.io", 'has "Quay.io", which is no registry host; write host or host:port in lower'),
        ("internal_registry", "registry-1.docker.io", "which is another name of Docker Hub; write docker.io"),
        ("registry_endpoint", "a", 'has "a", which lacks "="; write HOST=URL'),
        ("registry_endpoint", "a=b:5000", 'has "b:5000", which is no endpoint; write http:// or https://'),
        ("registry_endpoint", "a=https://h/path", 'has "https://h/path", which is no endpoint'),
        ("registry_endpoint", "a=https://[nine]:1", "which is no endpoint"),
        ("registry_endpoint", "a=http://b,a=http://c", 'gives "a" twice, with different values; keep one'),
        ("registry_ca", "a=", 'has "", which names no file'),
        ("refused_network", "10.0.0.1/8", 'has "10.0.0.1/8", which is no network; write an address and a prefix'),
        ("allowed_registry", "a b", 'has "a b", which is no pattern of registries'),
        ("manifest_managers", "a b", 'has "a b", which is no field manager'),
        ("no_proxy", "a b", 'has "a b", which is none; write a host, a .domain, host:port, an address or network'),
        ("registry_rate", "quay.io", 'has "quay.io", which lacks "="; write HOST=N/UNIT'),
        ("registry_rate", "quay.io=5", 'has "5", which is no rate; write a number and a time, such as 10/s'),
        ("registry_rate", "quay.io=0/s", 'has "0/s", which is no rate; its number is from 1 to 1000000'),
        ("registry_pulls", "quay.io=5/day", 'has "5/day", which is no rate; after the / belongs s, m, h or a duration'),
        ("registry_pulls", "quay.io=5/0", 'has "5/0", which is no rate; its time is from 1s to 744h'),
        ("mirror", "quay.io", 'has "quay.io", which lacks "="; write SOURCE=MIRROR'),
        ("mirror", "quay.io=mirror/a", 'where the mirror "mirror/a" must be host[:port][/path] with the registry'),
        ("mirror", "acme=m.example", 'where the source "acme" must be host[:port][/path] with the registry'),
        ("mirror", "quay.io=quay.io", 'where the source "quay.io" is a mirror of itself'),
        ("registries_configmap", "A", "is no name of an object"),
        ("install_secret_namespace", "A", 'has "A", which is no pattern of namespaces'),
        ("install_secret_repository", "quay.io/*", 'has "quay.io/*", which is no prefix of repositories'),
        ("install_secret_repository", "acme/web", 'has "acme/web", which is no prefix of repositories'),
        ("repository_tags", "20001", "is too large; the most is 20000"),
        ("pull_secrets", "all", "is not known; write namespace or linked"),
    ],
)
def test_a_value_is_refused_with_its_name_its_origin_and_the_way_out(name, text, words):
    row = next(row for row in TABLE if row.name == name)
    message = refused(environ={row.variable: text})
    assert message.startswith(f'{row.title}: "')
    assert f" from environment variable {row.variable} " in message
    assert words in message


def test_a_password_is_not_repeated():
    message = refused({"registry_endpoint": ("a=https://user:secret@host",)})
    assert message == (
        'registry-endpoint: "***@host" from flag --registry-endpoint has "***@host", which must not hold a user or '
        "password; registry credentials come from Secrets"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"http_proxy": "socks5://u:hunter2@p"}, "http-proxy: from flag --http-proxy is no proxy; write http[s]://"),
        ({"https_proxy": "http://u:hunter2@p/path"}, "https-proxy: from flag --https-proxy is no proxy"),
        ({"https_proxy": "http://u:hun@ter2@p"}, "https-proxy: from flag --https-proxy is no proxy"),
        ({"registry_proxy": "a=http://u:hunter2@p:x"}, "--registry-proxy has a value for a which is no proxy; write"),
        ({"registry_proxy": "a=http://u:hun,ter2@p"}, "--registry-proxy has a value for a which is no proxy; write"),
        ({"registry_proxy": "a=http://u:80,hunter2@p"}, '--registry-proxy has an item, which lacks "="; write HOST='),
        (
            {"registry_proxy": "a=http://u:80,hunteR2=@p"},
            "--registry-proxy has a host which is no registry host; write",
        ),
        ({"registry_proxy": "a=http://u:hunter2@p,a=none"}, 'gives "a" twice, with different values; keep one'),
        (
            {"registry_proxy": "a=http://u:hunter2@p", "blocked_registry": "a"},
            'registry-proxy: "a=http://***@p" from flag --registry-proxy lists a, which is refused by',
        ),
    ],
)
def test_what_may_be_a_proxys_password_is_never_shown(flags, words):
    message = refused(flags)
    assert words in message
    for part in ("hunter2", "hun", "ter2", "hunteR2"):
        assert part not in message


def test_a_proxys_password_is_in_no_repr_and_is_not_shown():
    settings = load({"https_proxy": "http://u:hunter2@p", "registry_proxy": "a=https://u:hunter2@p:1"}, {}, no_file)
    assert settings.https_proxy == "http://u:hunter2@p"
    assert "hunter2" not in repr(settings)
    assert (show(settings)["https_proxy"], show(settings)["registry_proxy"]) == ("http://***@p", "a=https://***@p:1")


@pytest.mark.parametrize(
    ("flags", "environ", "proxy"),
    [
        pytest.param({}, {"HTTPS_PROXY": "http://p:1"}, "http://p:1", id="as other programs"),
        pytest.param({}, {"https_proxy": "http://p:2"}, "http://p:2", id="in lower case"),
        pytest.param({}, {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://p:2"}, "http://p:1", id="both"),
        pytest.param(
            {}, {"HTTPS_PROXY": "", "https_proxy": "http://p:2"}, "http://p:2", id="an empty one says nothing"
        ),
        pytest.param({}, {"HTTPS_PROXY": "p:3128"}, "http://p:3128", id="without a scheme"),
        pytest.param({}, {"HTTP_PROXY": "http://p:1"}, "", id="another scheme's"),
        pytest.param({"https_proxy": "http://q"}, {"HTTPS_PROXY": "http://p"}, "http://q", id="a flag beats it"),
        pytest.param({}, {"IMAGESTREAMS_HTTPS_PROXY": "", "HTTPS_PROXY": "http://p"}, "", id="our own, though empty"),
        pytest.param({"https_proxy": "none"}, {"HTTPS_PROXY": "http://p"}, "", id="none at all"),
        pytest.param({"config": "c"}, {"HTTPS_PROXY": "http://p"}, "http://r", id="the file beats it"),
    ],
)
def test_the_usual_variables_for_proxies_come_last(flags, environ, proxy):
    assert load(flags, environ, files(c="httpsProxy: http://r")).https_proxy == proxy


def test_the_usual_list_of_exceptions_may_be_untidy():
    assert load({}, {"no_proxy": " localhost, .svc,,10.0.0.0/8 ,"}, no_file).no_proxy == (
        "localhost",
        ".svc",
        "10.0.0.0/8",
    )
    assert refused({}, {"HTTP_PROXY": "socks5://hunter2"}) == (
        "http-proxy: from environment variable HTTP_PROXY is no proxy; write http[s]://[user:password@]host[:port], "
        "with @ and comma in the password as %40 and %2C, or none for direct connections"
    )


def test_the_configmap_can_be_none():
    assert load({"registries_configmap": ""}, {}, no_file).registries_configmap == ""
    assert load({}, {}, no_file).registries_configmap == "imagestreams-registries"


def test_the_table_needs_neither_the_policy_nor_yaml():
    """The command line prints it, and starts in a few dozen milliseconds."""
    code = "import sys, imagestreams.settings as s; s.load({}, {}, open); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"imagestreams.core.policy", "yaml", "msgspec", "imagestreams.core.reference"}.isdisjoint(loaded)


def test_two_values_for_one_setting_are_refused():
    assert refused({"interval": ("5m", "10m")}) == ('interval: "5m,10m" from flag --interval holds more than one value')


def test_unknown_names_are_refused_and_the_nearest_is_named():
    message = refused(
        {"config": "c.yaml"}, {"IMAGESTREAMS_INTERVALL": "5m", "IMAGESTREAMS_X": "y"}, files(c_yaml="min_interval: 5m")
    )
    assert message.splitlines() == [
        (
            "IMAGESTREAMS_INTERVALL: from the environment is no setting (did you mean IMAGESTREAMS_INTERVAL?); "
            "unset it, or correct its name"
        ),
        "IMAGESTREAMS_X: from the environment is no setting; unset it, or correct its name",
        "min_interval: from c.yaml is no setting (did you mean minInterval?); remove it, or correct its name",
    ]
    assert refused({"intervall": "5m"}) == 'intervall: "5m" from flags is not known (did you mean interval?)'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("interval: 5m\ninterval: 6m", "cannot be read: interval: is given twice; keep one (line 2)"),
        ("- a", "cannot be read: the file holds no mapping; write one setting per line, such as interval: 15m"),
        ("a: [", "cannot be read: line 2: no valid YAML:"),
        ("[" * 100_000, "cannot be read: the document: is nested too deeply (line 1)"),
    ],
)
def test_a_broken_file(text, words):
    assert refused({"config": "c.yaml"}, {}, files(c_yaml=text)).startswith(
        f'config: "c.yaml" from flag --config {words}'
    )


def test_a_missing_file():
    assert refused({}, {"IMAGESTREAMS_CONFIG": "/x"}) == (
        'config: "/x" from environment variable IMAGESTREAMS_CONFIG cannot be read: No such file or directory'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interval:", "interval: from interval in c has no value; give one, or remove the line for the default"),
        ("interval: null", "interval: from interval in c has no value; give one, or remove the line for the default"),
        ("interval: [5m]", "interval: from interval in c has the wrong shape; write DURATION"),
        ("registryCa: {a: {b: c}}", "has the wrong shape; write HOST=FILE or a list of them"),
        ("insecureRegistry: {a: b}", "has the wrong shape; write HOST or a list of them"),
        ("interval: '15'", 'interval: "15" from interval in c is no duration'),
    ],
)
def test_a_value_of_the_file_is_refused_with_its_key(text, message):
    assert message in refused({"config": "c"}, {}, files(c=text))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"interval": "30s"},
            (
                'interval: "30s" from flag --interval is shorter than min-interval "1m" from the default; '
                "raise interval or lower min-interval"
            ),
        ),
        (
            {"retry_base": "1h"},
            (
                'retry-cap: "15m" from the default is shorter than retry-base "1h" from flag --retry-base; '
                "raise retry-cap or lower retry-base"
            ),
        ),
        (
            {"request_timeout": "5s"},
            (
                'request-timeout: "5s" from flag --request-timeout is shorter than connect-timeout "10s" from the '
                "default; raise request-timeout or lower connect-timeout"
            ),
        ),
        (
            {"allowed_registry": "quay.io,a", "blocked_registry": "quay.io"},
            (
                'allowed-registry: "quay.io,a" from flag --allowed-registry lists quay.io, which is refused by '
                'blocked-registry "quay.io" from flag --blocked-registry; keep one of the two'
            ),
        ),
        (
            {"registry_endpoint": "a=http://b", "blocked_registry": "a"},
            (
                'registry-endpoint: "a=http://b" from flag --registry-endpoint lists a, which is refused by '
                'blocked-registry "a" from flag --blocked-registry; keep one of the two'
            ),
        ),
        (
            {"mirror": "quay.io=m.example", "blocked_registry": "quay.io,m.example"},
            (
                'mirror: "quay.io=m.example" from flag --mirror asks m.example, which is refused by blocked-registry '
                '"quay.io,m.example" from flag --blocked-registry; keep one of the two'
            ),
        ),
        (
            {"install_secret": "pull", "install_secret_namespace": "a"},
            (
                'install-secret: "pull" from flag --install-secret serves nobody with install-secret-repository "" '
                "from the default; list in install-secret-repository whom it serves"
            ),
        ),
        (
            {"install_secret_namespace": "a"},
            (
                'install-secret-namespace: "a" from flag --install-secret-namespace says whom a secret serves, and '
                'there is none with install-secret "" from the default; name one, or list nobody'
            ),
        ),
        (
            {"registry_ca": "a=/ca", "insecure_registry": "a"},
            (
                'registry-ca: "a=/ca" from flag --registry-ca says what to trust for a, whose certificate is not '
                'checked because of insecure-registry "a" from flag --insecure-registry; keep one of the two'
            ),
        ),
        (
            {"webhooks_only": "true"},
            (
                'webhooks-only: "true" from flag --webhooks-only serves nothing with webhook-address "" from the '
                "default; set webhook-address"
            ),
        ),
        (
            {"webhook_client_ca": "/ca.pem"},
            (
                'webhook-client-ca: "/ca.pem" from flag --webhook-client-ca proves nothing with webhook-client-name "" '
                "from the default; set webhook-client-name, too"
            ),
        ),
        (
            {"webhook_client_name": "kube-apiserver"},
            (
                'webhook-client-name: "kube-apiserver" from flag --webhook-client-name proves nothing with '
                'webhook-client-ca "" from the default; set webhook-client-ca, too'
            ),
        ),
    ],
)
def test_contradictions_name_both(flags, message):
    assert refused(flags) == message


def test_all_problems_are_told_at_once():
    assert len(refused({"interval": "x", "workers": "y"}, {"IMAGESTREAMS_Z": ""}).splitlines()) == 3


# ---- grammars ----


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=400)))
def test_a_duration_reads_back(value):
    rounded = value // timedelta(milliseconds=1) * timedelta(milliseconds=1)
    assert parse_duration(show_duration(rounded)) == rounded


@given(st.integers(min_value=0, max_value=10**14))
def test_a_size_reads_back(value):
    assert parse_size(show_size(value)) == value


@given(st.text(alphabet="0123456789hms.-+ ٣", max_size=8))
def test_what_is_no_duration_is_refused(text):
    try:
        value = parse_duration(text)
    except ValueError:
        return
    assert value >= timedelta()
    assert text.isascii()


@given(st.text(alphabet="ab:[]0123456789.", max_size=12))
def test_an_address_to_listen_on_reads_back(text):
    row = next(row for row in TABLE if row.name == "http_address")
    try:
        value = row.kind.parse((text,))
    except ValueError:
        return
    assert row.kind.parse((str(value),)) == value
