"""Tool results: a text that is complete on its own, previews for clients that show pictures, and JSON in `_meta`."""
