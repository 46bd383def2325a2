"""`python -m milvus_coop` is the `milvus-coop` command."""

from __future__ import annotations

from milvus_coop.cli.main import main

if __name__ == "__main__":
    main()
