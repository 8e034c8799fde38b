"""The MCP side: tools, results and resources over a studio."""
