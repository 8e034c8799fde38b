"""`python -m mcp_vega` is the command `mcp-vega`."""

import sys

if not sys.flags.safe_path:
    # It is the working folder, which a host chooses: what lies there is none of this server's modules.
    del sys.path[0]

from mcp_vega.cli.main import main

sys.exit(main())
