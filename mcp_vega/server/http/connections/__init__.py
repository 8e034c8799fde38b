"""The sockets of the server over HTTP.

listener  accepts connections, and drains the server before it ends
capacity  limits the number of connections
"""
