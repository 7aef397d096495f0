"""The one write to ImageStreams, and what its refusals mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imagestreams.core.stream import Status, StatusTag, decode
from imagestreams.kube.cluster import ApiError
from imagestreams.kube.imagestreams import ImageStreams, ObjectTooLarge
from tests.fakes.apiserver import html, status

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster
    from tests.fakes.apiserver import FakeApiServer, Respond

GROUP = "image.openshift.io"
STREAM = b'{"metadata": {"namespace": "team", "name": "app", "uid": "u", "resourceVersion": "1"}}'
WEBHOOK = 'admission webhook "size.policy.example" denied the request: '


async def written(api: FakeApiServer, cluster: Cluster, refusal: Respond) -> None:
    api.inject(refusal, verb="patch")
    await ImageStreams(cluster, GROUP).write_status(decode(STREAM), Status(tags=(StatusTag(tag="1"),)))


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(status(500, "InternalError", "etcdserver: request is too large"), id="etcd"),
        pytest.param(
            status(
                500,
                "InternalError",
                "rpc error: code = ResourceExhausted desc = trying to send message larger than max (3 vs. 2)",
            ),
            id="the way to etcd",
        ),
        pytest.param(
            status(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"), id="the API server"
        ),
        pytest.param(html(413), id="a proxy"),
    ],
)
async def test_what_is_too_large_is_told_apart(api: FakeApiServer, cluster: Cluster, refusal: Respond) -> None:
    with pytest.raises(ObjectTooLarge):
        await written(api, cluster, refusal)


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(status(400, "BadRequest", WEBHOOK + "the number of tags exceeds max 5"), id="a policy"),
        pytest.param(status(422, "Invalid", "spec.tags: the list exceeds max items"), id="a schema"),
        pytest.param(status(422, "Invalid", "message: a message larger than max is refused"), id="in etcd's words"),
        pytest.param(status(403, "Forbidden", WEBHOOK + "request is too large"), id="a policy in etcd's words"),
        pytest.param(status(413, "RequestEntityTooLarge", WEBHOOK + "request entity too large"), id="its code, too"),
        pytest.param(status(500, "InternalError", WEBHOOK + "etcdserver: request is too large"), id="and all of both"),
        pytest.param(
            status(500, "InternalError", 'failed calling webhook "x": received message larger than max'),
            id="the way to a policy",
        ),
        pytest.param(status(500, "InternalError", "etcdserver: no leader"), id="another failure"),
    ],
)
async def test_a_refusal_of_another_kind_costs_no_history(
    api: FakeApiServer, cluster: Cluster, refusal: Respond
) -> None:
    with pytest.raises(ApiError):
        await written(api, cluster, refusal)
