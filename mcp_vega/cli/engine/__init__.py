"""The engine on this machine: the commands `engine` and `weights`, and how servers find or start the user's engine.

registration  which engine this user runs
"""
