"""The engine on this machine: the commands `engine` and `weights`, and how servers find or start the user's engine.

command       `mcp-vega engine`
weights       `mcp-vega weights`
requirements  what an engine needs to draw with the open weights: packages and weights
registration  which engine this user runs
"""
