"""`python -m mcp_vega` is the command `mcp-vega`."""

import sys

from mcp_vega.cli.main import main

sys.exit(main())
