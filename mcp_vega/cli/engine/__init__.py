"""The engine on this machine: the commands `engine` and `weights`, and how servers find or start the user's engine.

weights       the command that fetches the weights
registration  which engine this user runs
file_lock     locks that end with their process
requirements  what an engine needs before it is started
launcher      finds the engine, or starts one
transport     sends a client's requests to it
"""
