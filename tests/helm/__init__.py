"""Tests of the Helm chart."""

import platform

import pytest

if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
    pytest.skip("Helm's engine is a wheel for Linux on x86_64", allow_module_level=True)
