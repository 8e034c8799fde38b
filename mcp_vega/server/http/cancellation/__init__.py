"""Cancellations over Streamable HTTP: each is a request of its own, which may come to another server than its call.

middleware          recognizes a cancellation
canceller           finds its call, on this server or another one
requests_in_flight  the calls of this server that are being answered, or were just answered
"""
