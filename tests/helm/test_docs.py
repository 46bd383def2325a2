"""The `helm` lines of docs/kubernetes.md: their files exist and their values are taken."""

from __future__ import annotations

import copy
import re
import shlex
from itertools import pairwise

import helm_python
import pytest

from tests.helm.kit import CHART, ROOT, merge, render, values_of

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
INSTALLED = values_of(("gpu",), "milvusClient.uri=https://milvus.example.com:19530,gateway.apiKeysSecret.name=gateway-keys")
"""What `--reset-then-reuse-values` finds."""


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(("helm install", "helm upgrade"))])
def test_values_are_taken(line: str) -> None:
    words = shlex.split(line)
    assert ROOT / words[3] == CHART
    values = {} if words[1] == "install" else copy.deepcopy(INSTALLED)
    for option, value in pairwise(words):
        if option == "-f":
            assert (ROOT / value).parent == CHART
            merge(values, values_of(((ROOT / value).stem.removeprefix("values-"),)))
        elif option == "--set":
            merge(values, helm_python.parse_set_string(value))
        elif option == "--set-string":
            merge(values, helm_python.parse_set_string_values(value))
    assert render(values).of_kind("Deployment")


def test_other_lines_are_known() -> None:
    assert {line.split()[0] for line in LINES} == {"helm", "kubectl"}
    assert {line.split()[1] for line in LINES if line.startswith("helm")} == {"dependency", "install", "test", "upgrade"}


def test_every_value_that_is_named_is_one() -> None:
    values = helm_python.values_from_yaml((CHART / "values.yaml").read_text(encoding="utf-8"))
    table = re.search(r"\| value \| why \|\n(.*?)\n\n", PAGE, re.DOTALL)
    assert table
    for row in table[1].splitlines()[1:]:
        for name in re.findall(r"`([a-zA-Z.]+)(?:=\w+)?`", row.split("|")[1]):
            found = values
            for part in name.split("."):
                assert part in found, name
                found = found[part]
