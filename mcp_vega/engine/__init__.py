"""One's own GPU behind Segmind's HTTP API.

It imports nothing of the client but the parameters, so that server, ledger and tests stay as they are, whoever draws.

painter    what draws the pictures
weights    the open weights on this machine
diffusion  draws with them
"""
