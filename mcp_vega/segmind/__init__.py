"""A typed, asynchronous client of the Segmind API for its two Vega models."""
