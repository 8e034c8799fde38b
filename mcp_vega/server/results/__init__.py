"""Tool results: a text that stands on its own, previews for those who can see them, records for programs."""
