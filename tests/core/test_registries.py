"""What is said of registries outside the settings: read whole or refused whole, and no password in the words."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.document import MAX_TEXT
from imagestreams.core.policy import DIRECT, HostRule, Mirror, MirrorRule, Policy, Rate, Transport, places_for
from imagestreams.core.reference import ImageReference
from imagestreams.core.registries import (
    HostEntry,
    InvalidRegistries,
    Registries,
    local_registry_hosting,
    mirror_sets,
    parse_registries,
    policy_of,
)

CA = trustme.CA().cert_pem.bytes().decode()
OTHER_CA = trustme.CA().cert_pem.bytes().decode()


def refused(text: str) -> list[str]:
    with pytest.raises(InvalidRegistries) as caught:
        parse_registries(text)
    return list(caught.value.problems)


def rule(source, *mirrors, **words):
    return MirrorRule(source, tuple(Mirror(each) if isinstance(each, str) else each for each in mirrors), **words)


# ---- the document ----

WHOLE = f"""\
# everything that can be said
allowed: [quay.io/acme, "*.Corp.example"]
blocked:
- docker.io/library/alpine
hosts:
  Harbor.corp.example:5000:
    insecure: true
    endpoint: "http://10.1.2.3:5000"
    proxy: http://user:pass@proxy:3128
    internal: true
    requests: 10/s
    pulls: 100/6h
  quay.io:
    caFile: /etc/ca.pem
    proxy: none
    insecure: false
    ca: |
      {CA.replace(chr(10), chr(10) + " " * 6).strip()}
  index.docker.io: {{}}
mirrors:
- source: quay.io/acme
  mirrors: [mirror.corp.example/quay/acme, {{location: m2.example/acme, insecure: true}}]
  pulls: digest
  neverContactSource: true
  record: mirror
- {{source: "*.corp.example", mirrors: [m.example]}}
"""


def test_all_that_can_be_said():
    found = parse_registries(WHOLE)
    ca = found.hosts["quay.io"].ca
    assert ca.strip() == CA.strip()
    assert found == Registries(
        allowed=("quay.io/acme", "*.corp.example"),
        blocked=("docker.io/library/alpine",),
        hosts={
            "harbor.corp.example:5000": HostEntry(
                endpoint="http://10.1.2.3:5000",
                insecure=True,
                internal=True,
                proxy="http://user:pass@proxy:3128",
                requests=Rate(10, timedelta(seconds=1)),
                pulls=Rate(100, timedelta(hours=6)),
            ),
            "quay.io": HostEntry(insecure=False, ca_file="/etc/ca.pem", proxy=DIRECT, ca=ca),
            "docker.io": HostEntry(),
        },
        mirrors=(
            rule(
                "quay.io/acme",
                "mirror.corp.example/quay/acme",
                Mirror("m2.example/acme", insecure=True),
                pulls="digest",
                never_contact_source=True,
                records_mirror=True,
            ),
            rule("*.corp.example", "m.example"),
        ),
    )
    assert "pass" not in repr(found)
    assert policy_of(Policy({}), found).hosts["quay.io"].ca == ca


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing", "---", "{}", "null", "allowed: []\nhosts: {}\nmirrors: []", "---\n{}\n..."]
)
def test_an_empty_document_says_nothing(text):
    assert parse_registries(text) == Registries()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "the document: must be a mapping with allowed, blocked, hosts, mirrors"),
        ("a", "the document: must be a mapping with allowed, blocked, hosts, mirrors"),
        ("allow: []", "allow: is not known; did you mean allowed?"),
        ("x: []", "x: is not known; known are allowed, blocked, hosts, mirrors"),
        ("allowed:", "allowed: has no value; give one, or remove the line"),
        ("allowed: quay.io", "allowed: must be a list"),
        ("allowed: [a b]", 'allowed[0]: "a b" is no pattern; write host[:port][/path], * and ? match within a part'),
        ("allowed: [{}]", "allowed[0]: must be a single value"),
        ("allowed: [~]", "allowed[0]: has no value; give one, or remove the line"),
        ('blocked: [""]', "blocked[0]: is empty; write host[:port][/path], * and ? match within a part"),
        ("hosts: []", "hosts: must be a mapping from host or host:port to what holds for it"),
        ("hosts: {quay.io: }", "hosts.quay.io: has no value; give one, or remove the line"),
        ("hosts: {quay.io: true}", "hosts.quay.io: must be a mapping with insecure, endpoint, ca, caFile, proxy, "),
        (
            "hosts: {https://quay.io: {}}",
            'hosts."https://quay.io": is no registry host; write host or host:port, without https:// and path',
        ),
        ("hosts: {a.io: {}, A.io: {}}", "hosts.A.io: is a.io again, by another spelling; keep one"),
        (
            "hosts: {docker.io: {}, index.docker.io: {}}",
            "hosts.index.docker.io: is docker.io again, by another spelling; keep one",
        ),
        ("hosts: {a.io: {insecure: yes}}", "hosts.a.io.insecure: is neither true nor false"),
        ("hosts: {a.io: {insecure: }}", "hosts.a.io.insecure: has no value; give one, or remove the line"),
        ("hosts: {a.io: {insecre: true}}", "hosts.a.io.insecre: is not known; did you mean insecure?"),
        (
            "hosts: {a.io: {endpoint: a}}",
            'hosts.a.io.endpoint: the endpoint "a" must be http://host[:port] or https://host[:port], with nothing',
        ),
        ('hosts: {a.io: {endpoint: ""}}', "hosts.a.io.endpoint: is empty; write http://host[:port] or https://host"),
        ("hosts: {a.io: {requests: 5}}", 'hosts.a.io.requests: "5" is no rate; write a number and a time, such as'),
        ("hosts: {a.io: {pulls: 5/day}}", 'hosts.a.io.pulls: "5/day" is no rate; after the / belongs s, m, h or a'),
        ("hosts: {a.io: {proxy: socks5://p}}", "hosts.a.io.proxy: is no proxy; write http[s]://[user:password@]host"),
        ("hosts: {a.io: {caFile: ca.pem}}", 'hosts.a.io.caFile: "ca.pem" is no path; write the absolute path of a PEM'),
        ("hosts: {a.io: {ca: /ca.pem}}", "hosts.a.io.ca: is no PEM; write whole -----BEGIN CERTIFICATE----- blocks"),
        (
            "hosts: {a.io: {insecure: true, caFile: /ca}}",
            "hosts.a.io: names a CA to trust, and insecure: true checks no certificate; keep one of the two",
        ),
        ("mirrors: {a: b}", "mirrors: must be a list"),
        ("mirrors: [a]", "mirrors[0]: must be a mapping with source, mirrors, pulls, neverContactSource, record"),
        ("mirrors: [{source: a.io}]", "mirrors[0]: has no mirrors"),
        ("mirrors: [{mirrors: [a.io]}]", "mirrors[0]: has no source"),
        ("mirrors: [{source: a.io, mirrors: []}]", "mirrors[0].mirrors: is empty; name a mirror, or list the source"),
        ("mirrors: [{source: a.io, mirrors: b.io}]", "mirrors[0].mirrors: must be a list"),
        ("mirrors: [{source: acme, mirrors: [b.io]}]", 'mirrors[0].source: the source "acme" must be host[:port]'),
        ("mirrors: [{source: a.io, mirrors: [b]}]", 'mirrors[0].mirrors[0]: the mirror "b" must be host[:port][/path]'),
        (
            "mirrors: [{source: a.io, mirrors: [{location: b}]}]",
            'mirrors[0].mirrors[0].location: the mirror "b" must be host[:port][/path]',
        ),
        ("mirrors: [{source: a.io, mirrors: [{insecure: true}]}]", "mirrors[0].mirrors[0]: has no location"),
        ("mirrors: [{source: a.io, mirrors: [a.io]}]", 'mirrors[0].source: the source "a.io" is a mirror of itself'),
        (
            "mirrors: [{source: a.io, mirrors: [b.io], pulls: tags}]",
            'mirrors[0].pulls: "tags" is not known; write digest, tag or all',
        ),
        (
            "mirrors: [{source: a.io, mirrors: [b.io], record: both}]",
            'mirrors[0].record: "both" is not known; write source or mirror',
        ),
        ("blocked: [a.io]\nhosts: {a.io: {}}", "blocked: lists a.io, of which hosts speaks; keep one"),
        ("blocked: [b.io]\nmirrors: [{source: a.io, mirrors: [b.io]}]", "blocked: lists b.io, which is a mirror; keep"),
        ("a: [", "line 2: no valid YAML: did not find expected node content"),
        ("a: b: c", "line 1: no valid YAML: mapping values are not allowed in this context"),
        ("a\x07", "the document: no valid YAML: it holds a character that YAML does not allow"),
        ("allowed: []\nallowed: []", "allowed: is given twice; keep one (line 2)"),
        (
            "hosts:\n  a.io:\n    insecure: true\n    insecure: true",
            "hosts.a.io.insecure: is given twice; keep one (line 4)",
        ),
        ("allowed: &a []", "allowed: anchors and aliases are not taken; write the value out (line 1)"),
        ("allowed: *a", "allowed: anchors and aliases are not taken; write the value out (line 1)"),
        ("allowed: !!seq []", "allowed: tags are not taken; remove it (line 1)"),
        ("hosts: !!python/object/apply:os.system [x]", "hosts: tags are not taken; remove it (line 1)"),
        ("? [a]\n: b", "the document: has a key that is no text (line 1)"),
        ("{}\n---\n{}", "the document: a second document begins; keep one (line 2)"),
        ("[[[[[[[[[[a]]]]]]]]]]", "the document: is nested too deeply (line 1)"),
        ("#" * (MAX_TEXT + 1), f"the document: has more than {MAX_TEXT} characters; keep what is needed here"),
        ("allowed: [" + "a," * 1001 + "]", "allowed: has 1001 entries; 1000 are allowed"),
        ("mirrors: [{source: a.io, mirrors: [" + "b.io," * 65 + "]}]", "mirrors[0].mirrors: has 65 entries; 64 are"),
        ("hosts:\n" + "".join(f"  h{n}.io: {{}}\n" for n in range(2001)), "hosts: has 2001 hosts; 2000 are allowed"),
    ],
)
def test_a_document_is_refused_with_the_place_and_the_way_out(text, problem):
    (found,) = refused(text)
    assert found.startswith(problem)


def test_all_problems_are_told_at_once_and_always_in_one_order():
    text = "allowed: [a b]\nx: 1\ny: 2\nhosts: {a.io: {proxy: x, q: 1}, /: {}}\nmirrors: [{source: a}, {source: b.io}]"
    problems = refused(text)
    assert [problem.partition(": ")[0] for problem in problems] == [
        "x",
        "y",
        "allowed[0]",
        "hosts.a.io.q",
        "hosts.a.io.proxy",
        'hosts."/"',
        "mirrors[0]",
        "mirrors[1]",
    ]
    with pytest.raises(InvalidRegistries) as caught:
        parse_registries("allowed: [" + "a b," * 15 + "]")
    assert len(caught.value.problems) == 15
    assert str(caught.value).count("; write") == 10
    assert str(caught.value).endswith("; and 5 more")


@pytest.mark.parametrize(
    "text",
    [
        "hosts: {a.io: {proxy: 'http://user:hunter2@proxy/path'}}",
        "hosts: {a.io: {proxy: 'http://user:hun@ter2@proxy'}}",
        "hosts: {a.io: {proxy: 'hunter2'}}",
        "hosts: {a.io: {proxy: [hunter2]}}",
        "hosts: {a.io: {proxy: {hunter2: x}}}",
        "hosts: {a.io: {proxy: http://user:hunter2@p: x}}",
        "hosts: {a.io: {proxy: &hunter2 x}}",
        "hosts: {a.io: {proxy: *hunter2}}",
        "hosts: {a.io: {proxy: !hunter2 x}}",
        "hosts: {a.io: {proxy: !hunter2!x y}}",
        "hosts: {a.io: {proxy: @hunter2}}",
        'hosts: {a.io: {proxy: "\\hunter2"}}',
        "hosts: {a.io: {proxy: |hunter2}}",
        "hosts: {a.io: {endpoint: 'http://user:hunter2@reg'}}",
        "hosts: {'user:hunter2@a.io': {}}",
        "hosts: {'http://user:hunter2@proxy': {}}",
        "allowed: ['user:hunter2@a.io']",
        'allowed: ["user:hunter2\\n@a.io b"]',
        "mirrors: [{source: 'user:hunter2@a.io', mirrors: ['user:hunter2@b.io']}]",
        "mirrors: [{source: 'user:hunter2@a.io', mirrors: ['b.io']}]",
        "mirrors: [{source: a.io, mirrors: ['b.io'], pulls: 'user:hunter2@a'}]",
        "'user:hunter2@proxy': x",
        "a: [http://user:hunter2@proxy",
    ],
)
def test_what_may_be_a_password_is_not_repeated(text):
    problems = refused(text)
    assert problems
    assert "hunter2" not in "".join(problems)


@pytest.mark.parametrize(
    ("ca", "words"),
    [
        ("-----BEGIN CERTIFICATE-----\nMIIB\n", "is no PEM"),
        (CA + "-----BEGIN CERTIFICATE-----\nMIIB\n", "is no PEM"),
        ("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "is no PEM"),
        (
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            "has a certificate, number 1, that is damaged",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nMA=\n-----END CERTIFICATE-----\n",
            "has a certificate, number 1, that is damaged",
        ),
        (CA + CA.replace("MII", "MIIA", 1), "has a certificate, number 2, that is damaged"),
        (CA.replace("CERTIFICATE", "RSA PRIVATE KEY"), "holds a private key; write certificates only, and replace"),
        (CA * 101, "has 101 certificates; 100 are allowed"),
    ],
)
def test_certificates_that_are_refused(ca, words):
    (problem,) = refused("hosts: {a.io: {ca: " + repr(ca).replace("'", '"') + "}}")
    assert problem.startswith(f"hosts.a.io.ca: {words}")


def test_certificates_may_have_words_around_them():
    text = f"# ours\n{CA}\n  issuer=x\n{OTHER_CA}"
    found = parse_registries("hosts: {a.io: {ca: " + repr(text).replace("'", '"') + "}}")
    assert found.hosts["a.io"].ca == text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500_000,
        "{a: " * 250_000,
        "- " * 500_000,
        "? " * 500_000,
        "\n".join(" " * n + "a:" for n in range(1_400)),
        "{" + ",".join(f"k{n}: 1" for n in range(90_000)) + "}",
        "mirrors: [" + "{}," * 300_000 + "]",
        "hosts:\n" + "".join(f"  {n}/: {{}}\n" for n in range(1_999)),
        "allowed: [" + "x/" * 500_000 + "/]",
        "hosts: {" + "x" * 1_000_000 + ": {}}",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_documents_cost_little(text):
    begun = time.process_time()
    with pytest.raises(InvalidRegistries) as caught:
        parse_registries(text)
    assert len(str(caught.value)) < 10_000
    assert time.process_time() - begun < 5


ANYTHING = st.recursive(
    st.one_of(
        st.text(max_size=8), st.sampled_from(["true", "none", "a.io", "b.io:5000/x", "http://a", "10/s", "~", "*"])
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["a.io", "source", "mirrors", "location", "pulls", "proxy", "ca", "insecure", "endpoint", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def written(value: object) -> str:
    """JSON is YAML, as far as we need it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)}: {written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return '"' + "".join(f"\\U{ord(char):08x}" for char in str(value) if not "\ud800" <= char <= "\udfff") + '"'


@given(st.dictionaries(st.sampled_from(["allowed", "blocked", "hosts", "mirrors"]), ANYTHING))
def test_any_values_are_taken_or_refused_in_order(document):
    with contextlib.suppress(InvalidRegistries):
        policy_of(Policy({}), parse_registries(written(document)))


@given(st.text(alphabet="abhost{}[]:,&*!|>'\"%@#-? \n\t~", max_size=60))
def test_any_text_is_taken_or_refused_in_order(text):
    for read in (parse_registries, local_registry_hosting):
        with contextlib.suppress(InvalidRegistries):
            read(text)


# ---- layers ----


def test_layers_add_up():
    base = Policy(
        {"a.io": HostRule(insecure=True, ca_file="/a", pulls_with_login=Rate(1, timedelta(1))), "b.io": HostRule()},
        allowed=("a.io",),
        blocked=("x.io",),
        strict=True,
        mirrors=(rule("a.io", "m1.io"),),
        https_proxy="http://proxy",
        no_proxy=("a",),
    )
    file = Registries(
        allowed=("c.io", "a.io"),
        hosts={"a.io": HostEntry(insecure=False, proxy=DIRECT), "c.io": HostEntry(endpoint="http://c")},
        mirrors=(rule("a.io", "m2.io"),),
    )
    configmap = Registries(
        blocked=("y.io",),
        hosts={"a.io": HostEntry(pulls=Rate(2, timedelta(1)), ca="PEM"), "c.io": HostEntry(endpoint="http://d")},
        mirrors=(rule("a.io", "m1.io"), rule("a.io", "m3.io")),
    )
    found = policy_of(base, file, configmap)
    assert found == Policy(
        {
            "a.io": HostRule(ca_file="/a", proxy=DIRECT, pulls=Rate(2, timedelta(1)), ca="PEM"),
            "b.io": HostRule(),
            "c.io": HostRule(endpoint="http://d"),
        },
        allowed=("a.io", "c.io"),
        blocked=("x.io", "y.io"),
        strict=True,
        mirrors=(rule("a.io", "m1.io"), rule("a.io", "m2.io"), rule("a.io", "m3.io")),
        https_proxy="http://proxy",
        no_proxy=("a",),
    )
    assert policy_of(base) == base


# ---- mirror sets ----


def digest_set(name, *mirrors):
    return {"metadata": {"name": name}, "spec": {"imageDigestMirrors": list(mirrors)}}


def test_mirror_sets():
    found = mirror_sets(
        [
            digest_set("b", {"source": "quay.io", "mirrors": ["m.io/quay"]}),
            {
                "metadata": {"name": "c"},
                "spec": {
                    "imageTagMirrors": [
                        {
                            "source": "ghcr.io",
                            "mirrors": ["n.io", "ghcr.io"],
                            "mirrorSourcePolicy": "NeverContactSource",
                        },
                        {
                            "source": "*.corp.example",
                            "mirrors": ["n.io"],
                            "mirrorSourcePolicy": "AllowContactingSource",
                        },
                    ]
                },
            },
            digest_set("a", {"source": "quay.io", "mirrors": ["l.io/quay"]}, {"source": "x.io"}),
            digest_set("d", {"source": "blocked.io", "mirrors": [], "mirrorSourcePolicy": "NeverContactSource"}),
            {"metadata": {"name": "e"}},
            {},
        ]
    )
    assert found.problems == ()
    assert found.registries == Registries(
        mirrors=(
            rule("quay.io", "l.io/quay", pulls="digest"),
            rule("quay.io", "m.io/quay", pulls="digest"),
            rule("ghcr.io", "n.io", pulls="tag", never_contact_source=True),
            rule("*.corp.example", "n.io", pulls="tag"),
            rule("blocked.io", pulls="digest", never_contact_source=True),
        )
    )


HOST_FIRST = " with the registry's host first, and no tag"


@pytest.mark.parametrize(
    ("entry", "problem", "rules"),
    [
        ("x", "a: spec.imageDigestMirrors[0]: is no mapping", ()),
        ({}, "a: spec.imageDigestMirrors[0]: needs a source and a list of mirrors", ()),
        ({"source": 1, "mirrors": ["m.io"]}, "a: spec.imageDigestMirrors[0]: needs a source and a list of mirrors", ()),
        ({"source": "a.io", "mirrors": {}}, "", ()),
        ({"source": "a.io", "mirrors": "m"}, "a: spec.imageDigestMirrors[0]: needs a source and a list of mirrors", ()),
        (
            {"source": "acme", "mirrors": ["m.io"]},
            'a: spec.imageDigestMirrors[0]: the source "acme" must be host[:port][/path]' + HOST_FIRST,
            (),
        ),
        (
            {"source": "a.io", "mirrors": ["m", "n.io"]},
            'a: spec.imageDigestMirrors[0]: the mirror "m" must be host[:port][/path]' + HOST_FIRST,
            (rule("a.io", "n.io", pulls="digest"),),
        ),
        (
            {"source": "a.io", "mirrors": ["n.io"], "mirrorSourcePolicy": "Sometimes"},
            "a: spec.imageDigestMirrors[0].mirrorSourcePolicy: is not known; the source is not contacted",
            (rule("a.io", "n.io", pulls="digest", never_contact_source=True),),
        ),
        (
            {"source": "a.io", "mirrors": ["n.io"], "mirrorSourcePolicy": ["x"]},
            "a: spec.imageDigestMirrors[0].mirrorSourcePolicy: is not known; the source is not contacted",
            (rule("a.io", "n.io", pulls="digest", never_contact_source=True),),
        ),
    ],
)
def test_what_is_wrong_in_a_mirror_set_is_left_out_and_told(entry, problem, rules):
    found = mirror_sets([digest_set("a", entry)])
    assert found.problems == ((problem,) if problem else ())
    assert found.registries.mirrors == rules


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["metadata", "spec"]),
            st.one_of(
                st.none(),
                st.text(max_size=3),
                st.dictionaries(
                    st.sampled_from(["name", "imageDigestMirrors", "imageTagMirrors"]),
                    st.recursive(
                        st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["a.io", "b.io", "*.c"])),
                        lambda inner: (
                            st.lists(inner)
                            | st.dictionaries(st.sampled_from(["source", "mirrors", "mirrorSourcePolicy"]), inner)
                        ),
                        max_leaves=6,
                    ),
                ),
            ),
        ),
        max_size=3,
    )
)
def test_any_objects_are_read(objects):
    policy_of(Policy({}), mirror_sets(objects).registries)


def test_mirror_sets_have_a_limit():
    many = [{"source": f"s{n}.io", "mirrors": ["m.io"]} for n in range(3000)]
    found = mirror_sets([digest_set("a", *many)])
    assert len(found.registries.mirrors) == 2000
    assert found.problems == ("a: spec.imageDigestMirrors[2000] and what follows: too many",)
    long = mirror_sets([digest_set("a", {"source": "s.io", "mirrors": [f"m{n}.io" for n in range(70)]})])
    assert len(long.registries.mirrors[0].mirrors) == 64
    assert long.problems == ("a: spec.imageDigestMirrors[0].mirrors: has 70 entries, of which 64 are used",)


# ---- a local registry ----

KIND = """\
host: "localhost:5001"
hostFromContainerRuntime: "registry:5000"
hostFromClusterNetwork: "kind-registry:5000"
help: "https://kind.sigs.k8s.io/docs/user/local-registry/"
somethingNew: {}
"""


def test_a_local_registry_is_asked_in_the_cluster_anonymously():
    policy = policy_of(Policy({}, https_proxy="http://p", http_proxy="http://p"), local_registry_hosting(KIND))
    (place,) = places_for(policy, ImageReference.parse("localhost:5001/web"), insecure=False)
    assert place.transport == Transport(
        "localhost:5001", "http://kind-registry:5000", insecure=False, credentials=False, ca_file="", listed=True
    )
    (insecure,) = places_for(policy, ImageReference.parse("localhost:5001/web"), insecure=True)
    assert not insecure.transport.credentials


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("{}", []),
        ("host: localhost:5001", []),
        ("hostFromClusterNetwork: kind-registry:5000", []),
        ("host: quay.io\nhostFromClusterNetwork: evil:5000", []),
        ("host: localhost.evil.example:5000\nhostFromClusterNetwork: evil:5000", []),
        ("host: 127.0.0.1.evil.example\nhostFromClusterNetwork: evil:5000", []),
        ("host: [localhost]\nhostFromClusterNetwork: evil:5000", []),
        ("host: localhost:0\nhostFromClusterNetwork: kind-registry:5000", []),
        ("host: localhost\nhostFromClusterNetwork: kind-registry:5000", ["localhost"]),
        ("host: 127.0.0.1:5001\nhostFromClusterNetwork: kind-registry:5000", ["127.0.0.1:5001"]),
        ("host: localhost:5001\nhostFromClusterNetwork: 10.1.2.3", ["localhost:5001"]),
    ],
)
def test_only_loopback_names_are_taken(text, hosts):
    assert list(local_registry_hosting(text).hosts) == hosts


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://kind-registry:5000", '"http://kind-registry:5000" must be host or host:port'),
        ("kind-registry:5000/path", "must be host or host:port"),
        ("user:hunter2@kind-registry", "must be host or host:port"),
        ("kind-registry:99999", "must be host or host:port"),
        ("[a]", "must be host or host:port"),
        ("169.254.169.254", '"169.254.169.254" is a cloud metadata address'),
        ("127.0.0.1:5000", '"127.0.0.1:5000" is a loopback address'),
        ("'[::1]:5000'", '"[::1]:5000" is a loopback address'),
        ("'[fe80::1]'", '"[fe80::1]" is a link-local address'),
    ],
)
def test_addresses_of_a_local_registry_that_are_refused(address, words):
    with pytest.raises(InvalidRegistries) as caught:
        local_registry_hosting(f"host: localhost:5001\nhostFromClusterNetwork: {address}")
    (problem,) = caught.value.problems
    assert problem.startswith("hostFromClusterNetwork: ")
    assert words in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("base", "layers", "endpoint"),
    [
        pytest.param({}, [], "http://kind-registry:5000", id="nobody else"),
        pytest.param({"localhost:5001": HostRule(endpoint="http://mine")}, [], "http://mine", id="the settings"),
        pytest.param({"localhost:5001": HostRule(insecure=True)}, [], "", id="no credentials to where it leads"),
        pytest.param(
            {"localhost:5001": HostRule(requests=Rate(1, timedelta(1)))}, [], "http://kind-registry:5000", id="a rate"
        ),
        pytest.param(
            {}, [Registries(hosts={"localhost:5001": HostEntry(endpoint="http://doc")})], "http://doc", id="a document"
        ),
    ],
)
def test_an_administrators_word_goes_before_the_clusters(base, layers, endpoint):
    for order in (1, -1):
        policy = policy_of(Policy(base), *[local_registry_hosting(KIND), *layers][::order])
        assert policy.hosts["localhost:5001"].endpoint == endpoint
