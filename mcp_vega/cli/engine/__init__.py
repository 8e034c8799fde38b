"""The engine on this machine: the commands `engine` and `weights`, and how servers find or start the user's engine.

weights       the command that fetches the weights
registration  which engine this user runs
file_lock     locks that end with their process
checks        the doctor's checks of what draws on this machine
probe         what torch would draw on; a process of its own
"""
