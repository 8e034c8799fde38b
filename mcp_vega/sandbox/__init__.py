"""The Segmind API's contract served on this machine: without a key, a network or a cost."""
