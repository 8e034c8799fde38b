"""One's own GPU behind Segmind's HTTP API.

It imports nothing of the client but the parameters, so that server, ledger and tests stay as they are, whoever draws.

app        the routes
drawings   all calls: the queue, the work on them, and how long they are kept
drawing    one call
responses  bodies and headers
history    the request history
painter    what draws the pictures
weights    the open weights on this machine
"""
