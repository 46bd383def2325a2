"""The `milvus-coop` command. Its modules parse, call and print. They import only click at the top, so that `--help` is instant."""
