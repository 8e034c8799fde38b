"""The MCP server: what agents and hosts see; `http/` is the same over SSE and Streamable HTTP."""
