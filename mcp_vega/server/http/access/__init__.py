"""Who may use the server over HTTP, and from which web pages.

auth        lets a request in, as whose it is, or answers it
cors        which web pages may use the server
headers     what an answer says to browsers and caches
callers     who has an access token
signatures  what a caller can be known by without a token
links       addresses that open a picture for a day
sign_in     browsers that a person has signed in with
rejections  how a request is turned away
"""
