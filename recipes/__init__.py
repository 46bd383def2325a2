"""How the shipped bundles are made. This folder is no part of the wheel."""
