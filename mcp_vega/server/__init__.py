"""The MCP server: what agents and hosts see.

app            the server, and where errors become results
tools          the four tools: what agents read of them, and what they do
schemas        the arguments: their JSON schemas, and their parsing
results        jobs as texts, pictures and data
resources      pictures, jobs and the gallery as resources
prompts        the prompts
notifications  what clients are told unasked
context        what all of these work with
client_info    who asks, and what a client can take
http/          the same over SSE and Streamable HTTP: routes, access, connections
"""
