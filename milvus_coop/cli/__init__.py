"""The `milvus-coop` command: parse, call, print. Modules here import only click at the top, so that `--help` is instant."""
