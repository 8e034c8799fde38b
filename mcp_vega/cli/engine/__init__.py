"""The engine on this machine: the commands `engine` and `weights`, and how servers find or start the user's engine.

command       `mcp-vega engine`
weights       `mcp-vega weights`
requirements  what an engine needs: settings, packages and weights
registration  which engine this user runs
file_lock     locks that end with the process that holds them
launcher      finds the engine, or starts one
transport     sends a client's requests to the engine
checks        the doctor's checks of what draws on this machine
probe         what torch would draw on; a process of its own
"""
