"""The routes of the API, one module for each part. Each module has a function that makes the router for a service."""
