"""KubeRay's schema of a RayJob: `python -m tests.helm.kuberay CRD` makes `kuberay.json.gz` from the CRD that KubeRay publishes.

The CRD is `helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml` of ray-project/kuberay at COMMIT, under the Apache License 2.0.
Only the version `ray.io/v1` is kept, without descriptions.
"""

from __future__ import annotations

import functools
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

COMMIT = "feeaf72facab4881ba2b179248bb67315634e229"
API_VERSION = "ray.io/v1"
DATA = Path(__file__).with_name("kuberay.json.gz")


def validate(document: object) -> None:
    """Check a RayJob strictly: unlike an API server, which drops them, this refuses unknown fields.

    Raises:
        jsonschema.ValidationError: the document is no RayJob.
    """
    _validator().validate(document)


@functools.cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(_strict(json.loads(gzip.decompress(DATA.read_bytes()))))


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    known = {key: _strict(value) for key, value in node.items()}
    return {"additionalProperties": False, **known} if isinstance(node.get("properties"), dict) else known


def _bare(node: Any) -> Any:
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _bare(value) for key, value in node.items() if not (key == "description" and isinstance(value, str))}


def main() -> None:
    """Make the data."""
    crd = yaml.load(Path(sys.argv[1]).read_text(encoding="utf-8"), yaml.CSafeLoader)
    (found,) = (
        version["schema"] for version in crd["spec"]["versions"] if f"{crd['spec']['group']}/{version['name']}" == API_VERSION
    )
    text = json.dumps(_bare(found["openAPIV3Schema"]), separators=(",", ":"), sort_keys=True)
    DATA.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
