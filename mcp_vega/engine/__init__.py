"""One's own GPU behind Segmind's HTTP API.

It imports nothing of the client but the parameters, so that server, ledger and tests stay as they are, whoever draws.

app        the routes, and the checks of a request
drawings   the calls: the queue, the work on them, and how long they are kept
drawing    one call: its state, its times, its pictures
responses  the answers to calls
history    the answers to questions for earlier calls
painter    what draws the pictures
errors     why it cannot draw
jpeg       the format of the pictures
weights    the open weights on this machine
diffusion  draws with them
backend    draws through a server that the user already runs
"""
