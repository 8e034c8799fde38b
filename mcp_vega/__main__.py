"""`python -m mcp_vega` is the command `mcp-vega`."""

import sys

if not sys.flags.safe_path:
    # This is the working folder, which a host chooses. Its files must not be imported as modules of this server.
    del sys.path[0]

from mcp_vega.cli.main import main

sys.exit(main())
