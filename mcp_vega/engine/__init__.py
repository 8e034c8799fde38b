"""One's own GPU behind Segmind's HTTP API.

It imports nothing of the client but the parameters, so that server, ledger and tests stay as they are, whoever draws.

app        the routes
drawings   the calls: the queue, and the work on them
responses  bodies and headers
history    the request history
painter    what draws the pictures
"""
