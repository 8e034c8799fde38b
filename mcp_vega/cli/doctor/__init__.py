"""The checks of `mcp-vega doctor`. Each function gives its checks, or raises the error that stands for the first.

command       the command, and the page that it prints
runner        runs all checks at once, and waits for none that never ends
check         one line of the page
settings      the environment variables
api           the API, the key, the balance
folders       the gallery and the ledger
installation  Python, the packages, the command
hosts         the entries in the hosts' files
handshake     a server, started as a host starts it
paid          draws pictures, and compares what is assumed of the API with its answers: the one that costs something

None of the checks changes anything, but that the ledger, where there is one, is opened as any server opens it.
"""
