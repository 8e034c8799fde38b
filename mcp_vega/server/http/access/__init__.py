"""Who may use the server over HTTP, and from which web pages.

auth        finds the caller of a request, or rejects the request
cors        which web pages may use the server
headers     default headers for browsers and caches
callers     who the callers are
tokens      callers with access tokens
oauth       callers with access tokens of an OAuth issuer
signatures  signatures that identify a caller without a token
links       links that open a picture for a day
sign_in     people sign in with a browser
rejections  errors that reject a request, and their answers
"""
