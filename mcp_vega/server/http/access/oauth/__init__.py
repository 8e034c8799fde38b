"""Callers with access tokens of an OAuth 2.1 authorization server, which is called the issuer here.

issuer    the issuer's metadata and keys, over the network
keys      the keys that are known, and when they are fetched again
claims    what a token must say
verifier  checks a token
callers   who the caller with a token is

Only the command that serves imports this package, and only if MCP_VEGA_OAUTH_ISSUER is set: the import is slow.
"""
