"""A typed, asynchronous client for the two Vega models of the Segmind API."""
