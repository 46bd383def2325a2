"""The routes of the API, a module for each part. Each has a function that makes its router for a service."""
