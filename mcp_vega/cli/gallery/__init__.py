"""`mcp-vega gallery`: the pictures on a page in the browser, and the folder that they are in."""
