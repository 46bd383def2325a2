"""The recipes of the shipped bundles. This folder is not part of the wheel."""
