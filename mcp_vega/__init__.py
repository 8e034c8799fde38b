"""mcp_vega: an MCP server that draws pictures with Segmind-Vega and Segmind-VegaRT."""

__version__ = "0.1.0"
