"""The checks of `mcp-vega doctor`. Each function returns its checks, or raises an error that fails the first of them.

command       the command
page          the checks as a page for people
runner        runs all checks at the same time, and gives up those that take too long
check         one line of the page
settings      the environment variables
api           the API, the key, the balance
folders       the gallery and the ledger
team          the ledger in PostgreSQL, the gallery in a bucket, the issuer of OAuth
installation  Python, the packages, the command
hosts         the entries in the hosts' files
handshake     a server, started as a host starts it
paid          draws pictures, and compares what is assumed of the API with its answers; only this costs money

No check changes anything. If there is a ledger, it is opened as every server opens it.
"""
