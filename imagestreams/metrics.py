"""Every metric, on one screen. Base units, labels from closed or capped sets; no tag, digest or message is ever a
label.

The registry is an argument of nobody: metrics are the one thing that is global on purpose, as prometheus_client has it.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import imagestreams

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LATENESS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ADMISSION = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
_MAX_HOSTS = 256  # hosts come from what users write: beyond this many, the label says "other"

_hosts: set[str] = set()

imports = Counter("imagestreams_imports_total", "Answers of registries to lookups.", ["outcome"])
import_errors = Counter("imagestreams_import_errors_total", "Tags that could not be imported.", ["registry", "reason"])
tag_moves = Counter(
    "imagestreams_tag_moves_total",
    "Tags that came to point to another image.",
    ["source"],  # how it was noticed: poll, request, spec (a new or edited tag, or one that follows it)
)
registry_requests = Counter(
    "imagestreams_registry_requests_total", "HTTP requests to registries.", ["registry", "method", "class", "code"]
)
registry_request_duration = Histogram(
    "imagestreams_registry_request_duration_seconds",
    "Time to a registry's answer.",
    ["registry", "class"],
    buckets=_SECONDS,
)
registry_throttled = Counter(
    "imagestreams_registry_throttled_total", "Lookups put off: the host must not be asked now.", ["registry", "cause"]
)
registry_quota = Gauge(
    "imagestreams_registry_quota_remaining",
    "Pulls that are left, by the registry's own word or the budget that is set; the least of all credentials.",
    ["registry", "account"],  # anonymous, authenticated
)
token_fetches = Counter("imagestreams_token_fetches_total", "Bearer tokens asked for.", ["registry"])
due_lag = Histogram(
    "imagestreams_due_lag_seconds",
    "How long after its polling slot's begin a tag was answered.",
    ["registry"],
    buckets=_LATENESS,
)
overdue = Gauge(
    "imagestreams_overdue_tags", "Scheduled tags that were not looked up for more than an interval.", ["registry"]
)
registries_config_valid = Gauge(
    "imagestreams_registries_config_valid",
    "0 while what is said of registries cannot be read as it is now, and the last good reading counts.",
    ["source"],  # file, configmap, local-registry-hosting, mirror-sets
)
import_requests = Counter(
    "imagestreams_import_requests_total",
    "Stored ImageStreamImports that were dealt with.",
    ["result"],  # carried_out, answered (looked up, nothing else), failed
)
admission_reviews = Counter(
    "imagestreams_admission_reviews_total",
    "What the API server asked before it stored an object.",
    ["door", "operation", "verdict"],  # allowed, patched, denied, failed, refused
)
admission_duration = Histogram(
    "imagestreams_admission_duration_seconds", "Time to a review's answer.", ["door"], buckets=_ADMISSION
)
webhook_certificate_expiry = Gauge(
    "imagestreams_webhook_certificate_expiry_timestamp_seconds",
    "When the certificate that webhooks are served with ends (Unix time); 0 while there is none.",
)
images = Gauge("imagestreams_images", "Image objects in the store.")
image_objects = Counter(
    "imagestreams_image_objects_total",
    "What was done about Image objects.",
    ["result"],  # created, deleted, failed, over_budget
)
rollouts = Counter(
    "imagestreams_rollouts_total",
    "Decisions about containers that follow a tag.",
    ["kind", "result"],  # applied, acknowledged, held, conflict, refused, observed
)
move_to_patch = Histogram(
    "imagestreams_move_to_patch_seconds", "From a tag event to the workload's patch.", ["kind"], buckets=_LATENESS
)
held = Gauge("imagestreams_held", "Containers that do not follow their tag for now.", ["reason"])
queue_oldest = Gauge("imagestreams_queue_oldest_seconds", "How long the first key has waited for a worker.", ["queue"])
queue_depth = Gauge("imagestreams_queue_depth", "Keys that wait for a worker.", ["queue"])
queue_retries = Counter("imagestreams_queue_retries_total", "Keys put back after an error.", ["queue"])
reconcile_duration = Histogram(
    "imagestreams_reconcile_duration_seconds", "Time of one reconcile.", ["queue"], buckets=_SECONDS
)
kube_requests = Counter("imagestreams_kube_requests_total", "Requests to the API server.", ["verb", "resource", "code"])
clock_skew = Gauge(
    "imagestreams_clock_skew_seconds",
    "By how much our clock is ahead of the API server's, at least; negative: behind.",
)
events_dropped = Counter("imagestreams_events_dropped_total", "Kubernetes Events that were not written.")
streams = Gauge("imagestreams_streams", "Image streams in the store.")
leader = Gauge("imagestreams_leader", "1 while this replica holds the Lease.")
build_info = Gauge("imagestreams_build_info", "1, labelled with the version.", ["version"])
build_info.labels(imagestreams.__version__).set(1)


def registry_label(host: str) -> str:
    """The host as a label, from a capped set."""
    if host in _hosts or len(_hosts) < _MAX_HOSTS:
        _hosts.add(host)
        return host
    return "other"


def exposition() -> tuple[bytes, str]:
    """The text format of all metrics, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
