"""A Segmind of one's own: the API's contract on loopback, without a key, a network or a cost."""
