"""`mcp-vega` without a command: serves MCP over stdio, SSE or Streamable HTTP.

command   chooses the transport
stdio     serves until the host leaves
http      serves over SSE or Streamable HTTP, until a signal comes
callers   who the callers over HTTP are
draining  how a server over HTTP ends
reload    reads the secrets in files again
metrics   serves the figures for Prometheus
"""
