"""The command `mcp-vega`."""
