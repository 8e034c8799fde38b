"""Draws with the open weights on this machine, by the library diffusers.

painter     what the engine uses; it imports torch when it loads
device      which device draws, and its free memory
memory      how the engine fits into that memory
pipeline    the model on the device
schedulers  the documented schedulers, as diffusers names them
failures    what went wrong, for people
packages    which packages this needs
"""
